"""The file and row formats that users bring, and the one form that everything else works with: (prompt, answer).

Row formats: `question`/`answer` is TOFU's format (hub: locuslab/TOFU); `prompt`/`completion`, `messages` and `text` are
TRL's dataset formats (https://huggingface.co/docs/trl/dataset_formats), where a prompt or completion is either a string
or a list of chat messages.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import Dataset

from llm_unlearn.errors import InputError, excerpt

FORMATS = {  # name -> required columns; where a dataset fits several, the first one counts
    "question/answer": ("question", "answer"),
    "prompt/completion": ("prompt", "completion"),
    "messages": ("messages",),
    "text": ("text",),
}

FILE_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")

Row = Mapping[str, Any]
Message = dict[str, str]  # {"role": ..., "content": ...}
Prompt = list[Message] | str  # the string is always "": plain text has no prompt


def listed(texts: Any) -> list[str]:
    """A cell of a column of lists; a file that can hold no lists (CSV) has one text in it, or nothing."""
    if texts is None or texts != texts or texts == "":  # NaN is not itself
        return []
    return [texts] if isinstance(texts, str) else list(texts)


def rows_at_once(dataset: Dataset | Sequence[Row]) -> Sequence[Row]:
    """All rows as a data set stores them: to iterate over it takes ten times as long, for it decodes row by row."""
    return dataset.to_list() if isinstance(dataset, Dataset) else dataset


def row_format(column_names: Iterable[str]) -> str:
    """The name of the row format (a key of `FORMATS`) that these columns have.

    Raises:
        InputError: the columns fit no format; the message lists them and suggests the nearest accepted names.
    """
    found = list(column_names)
    for format_name, columns in FORMATS.items():
        if set(columns) <= set(found):
            return format_name
    accepted = "; ".join(" + ".join(columns) for columns in FORMATS.values())
    missing = [column for columns in FORMATS.values() for column in columns if column not in found]
    nearest = {column: difflib.get_close_matches(column.lower(), missing, n=1, cutoff=0.75) for column in found}
    renames = [f"rename {column!r} to {match[0]!r}" for column, match in nearest.items() if match]
    fix = ", ".join(renames) if renames else "rename the columns that hold the texts"
    raise InputError(f"columns {excerpt(found)} fit no row format; accepted are {accepted}: {fix}")


def split_row(row: Mapping[str, Any], format_name: str) -> tuple[Prompt, str]:
    """One row as (prompt, answer): a list of chat messages (or "" for plain text) and the answer's text, unchanged.

    Args:
        row: has the columns that `format_name` requires; other columns are ignored.
        format_name: what `row_format` returned.

    Raises:
        InputError: a text is missing, blank or not a string, or the messages do not end with one answer by the
            assistant; the message names the column and the fix.
    """
    if format_name == "question/answer":
        return [{"role": "user", "content": _text(row, "question")}], _text(row, "answer")
    if format_name == "text":
        return "", _text(row, "text")
    if format_name == "messages":
        *prompt, last = _messages(row, "messages")
        return _prompt(prompt, "messages"), _assistant_text(last, "messages")
    if isinstance(row.get("prompt"), list):
        prompt = _prompt(_messages(row, "prompt"), "prompt")
    else:
        prompt = [{"role": "user", "content": _text(row, "prompt")}]
    if not isinstance(row.get("completion"), list):
        return prompt, _text(row, "completion")
    completion = _messages(row, "completion")
    if len(completion) > 1:
        raise InputError(
            f"column 'completion' has {len(completion)} messages; keep one, move earlier turns to 'prompt'"
        )
    return prompt, _assistant_text(completion[0], "completion")


def question_text(prompt: Prompt) -> str:
    """The last user message of a prompt, for reports and result files; "" for plain text."""
    return next((message["content"] for message in reversed(prompt or []) if message["role"] == "user"), "")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file: JSON (an array of objects, or one object per line; both occur as .json), CSV or Parquet.

    Raises:
        InputError: the file is missing, of another kind, or not readable as what its suffix says; the message names it
            and, for JSON lines and CSV, the line.
    """
    if path.is_dir():
        raise InputError(f"file {str(path)!r} is a folder; give one of its files ({', '.join(FILE_SUFFIXES)})")
    if not path.is_file():
        raise InputError(f"file {str(path)!r} does not exist (looked for {path.absolute()})")
    if path.suffix not in FILE_SUFFIXES:
        raise InputError(f"file {str(path)!r} is of an unknown kind; accepted are {', '.join(FILE_SUFFIXES)}")
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"file {str(path)!r} cannot be read as {path.suffix[1:]}: {reason}") from error
    text = read_text(path)
    return _csv_rows(path, text) if path.suffix == ".csv" else _json_rows(path, text)


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        InputError: it cannot be read, or is not what its beginning says; the message names the line.
    """
    try:
        return path.read_text(encoding=_encoding_of(path))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].decode(error.encoding).count("\n") + 1
        kind = error.encoding[:6].rstrip("-").upper()  # utf-8, or utf-16-le
        raise InputError(f"file {str(path)!r} line {line} is not {kind} text; save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"file {str(path)!r} cannot be read: {' '.join(str(error).split())}") from error


def _encoding_of(path: Path) -> str:
    """UTF-8, or UTF-16 where the file begins with its byte order mark, as spreadsheets and PowerShell write it."""
    with open(path, "rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _json_rows(path: Path, text: str) -> list[dict[str, Any]]:
    is_array = text.lstrip().startswith("[")
    documents = [text] if is_array else text.split("\n")  # splitlines would cut at U+2028 inside a string
    rows = []
    for number, document in enumerate(documents, start=1):
        try:
            rows.extend([json.loads(document)] if document.strip() else [])
        except json.JSONDecodeError as error:
            raise InputError(
                f"file {str(path)!r} line {number + error.lineno - 1} is not JSON ({error.msg}); give one array of "
                f"objects, or one object per line"
            ) from error
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in lists in lists
            raise InputError(f"file {str(path)!r} line {number} cannot be read as JSON: {error}") from error
    rows = rows[0] if is_array else rows
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError(
                f"file {str(path)!r} row {number} is {excerpt(row)}; every row must be an object with named columns"
            )
    if len(rows) == 1 and _holds_columns(rows[0]):
        raise InputError(
            f"file {str(path)!r} is one object of columns; give one array of objects, or one object per line (of "
            "pandas: to_json(orient='records'))"
        )
    return rows


def _holds_columns(row: Mapping[str, Any]) -> bool:
    """Whether an object has many rows in it, by column or under a name; messages are a cell of one row."""
    cells = [list(cell.values()) if isinstance(cell, dict) else cell for cell in row.values()]
    return bool(cells) and all(
        isinstance(cell, list) and not any(isinstance(item, dict) and "role" in item for item in cell) for cell in cells
    )


def _csv_rows(path: Path, text: str) -> list[dict[str, Any]]:
    # Not pandas: it reads the answers "None" and "NA" as missing values and "007" as a number.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # or else a cell has at most 131,072 characters
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_header(path, list(reader.fieldnames or []))
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"file {str(path)!r} line {reader.reader.line_num} is not CSV: {error}") from error
    for number, row in enumerate(rows):
        if None in row:
            raise InputError(
                f"file {str(path)!r} row {number} has more cells than the header has columns; quote texts with commas"
            )
    return rows


def _check_header(path: Path, columns: list[str]) -> None:
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(columns) == 1 and separator in columns[0]:
            raise InputError(f"file {str(path)!r} has {name} between its columns; export it with commas")
    if repeated := [column for number, column in enumerate(columns) if column in columns[:number]]:
        raise InputError(
            f"file {str(path)!r} has two columns called {excerpt(repeated[0])}; rename or remove one of them"
        )


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise InputError(f"column {column!r} holds {excerpt(value)} ({type(value).__name__}); it must be a string")
    if not value.strip():
        raise InputError(f"column {column!r} is blank ({excerpt(value)}); fill it or drop the row")
    return value


def _messages(row: Mapping[str, Any], column: str) -> list[Message]:
    """The messages of a cell, reduced to role and content (Arrow fills in keys that only other rows have)."""
    value = row.get(column)
    if not isinstance(value, list) or not value:
        raise InputError(
            f"column {column!r} holds {excerpt(value)}; it must be a list of {{'role', 'content'}} messages"
        )
    for message in value:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            words = f"column {column!r} has the message {excerpt(message)}"
            raise InputError(f"{words}; 'role' and 'content' must be strings")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _prompt(messages: list[Message], column: str) -> list[Message]:
    questions = [message["content"] for message in messages if message["role"] == "user"]
    if not questions:
        raise InputError(f"column {column!r} has no user message before the answer; add the question with role 'user'")
    if not all(question.strip() for question in questions):
        raise InputError(f"column {column!r} has a blank user message; fill it or drop the row")
    return messages


def _assistant_text(message: Message, column: str) -> str:
    if message["role"] != "assistant":
        raise InputError(
            f"column {column!r} ends with role {excerpt(message['role'])}; its last message must be 'assistant'"
        )
    if not message["content"].strip():
        raise InputError(f"column {column!r} ends with a blank assistant message; fill it or drop the row")
    return message["content"]
