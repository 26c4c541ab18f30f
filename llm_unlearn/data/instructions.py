"""Instruction data for benign relearning: the embedded set, a local file, or a data set of the hub."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from llm_unlearn.data.fictional import build_world
from llm_unlearn.data.formats import FILE_SUFFIXES, read_rows
from llm_unlearn.data.validation import validate_rows
from llm_unlearn.errors import InputError

FORMATS = (  # (instruction, its input, answer)
    ("instruction", "input", "output"),  # Alpaca
    ("instruction", "context", "response"),  # Dolly
)
ACCEPTED = "'embedded', a file, or a hub id such as 'tatsu-lab/alpaca'"


def load_instructions(spec: str = "embedded", size: str = "small", rows: int = 1000, seed: int = 0) -> Dataset:
    """At most `rows` rows with `question` and `answer`, of larger sets a seeded sample in the set's own order.

    Args:
        spec: "embedded" (instructions of the fictional world that its models were not trained on); the path of a JSON,
            JSON lines, CSV or Parquet file; or the id of a hub data set with a train split ("tatsu-lab/alpaca",
            "databricks/databricks-dolly-15k"). Columns are Alpaca's (instruction, optional input, output), Dolly's
            (instruction, optional context, response), or question and answer.
        size: of the fictional world whose instructions are meant.
        seed: of the sample.

    Raises:
        InputError: no such file, a data set that the hub does not have or that cannot be reached, or other columns.
    """
    flag = "--benign_data"
    found = (
        build_world(size).splits["instructions"]
        if spec == "embedded"
        else as_questions(rows_of(spec, flag), spec, flag)
    )
    if len(found) > rows:
        found = [found[i] for i in sorted(random.Random(seed).sample(range(len(found)), rows))]
    return Dataset.from_list(found)


def rows_of(spec: str, flag: str) -> list[dict]:
    """The rows of a file or of a hub data set's train split, as they are; `flag` is what errors call `spec`.

    Raises:
        InputError: no such file, one that cannot be read, or a data set that the hub does not have or that cannot be
            reached.
    """
    path = Path(spec).expanduser()
    if path.is_file():
        return read_rows(path)
    if _may_be_hub_id(spec) and not path.exists():
        return _from_hub(spec, flag)
    raise InputError(f"{flag} {spec!r} is none of {ACCEPTED} (looked for a file at {path.absolute()})")


def are_instructions(columns: Iterable[str]) -> bool:
    """Whether these are the columns of Alpaca or Dolly."""
    return any({instruction, answer} <= set(columns) for instruction, _, answer in FORMATS)


def _may_be_hub_id(spec: str) -> bool:
    """OWNER/NAME, unless it looks like the path of a file: for a mistyped one, nobody should wait for the hub."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", spec) is not None and Path(spec).suffix not in FILE_SUFFIXES


def _from_hub(spec: str, flag: str) -> list[dict]:
    try:
        return datasets.load_dataset(spec, split="train").to_list()
    except Exception as error:  # offline, unknown, private, without such a split: each has its own kinds of errors
        reason = " ".join(str(error).split())
        raise InputError(
            f"{flag} {spec!r} is no file here and cannot be loaded from the hub ({reason}); check its name, or, "
            "offline, give a file with the columns instruction and output, or 'embedded'"
        ) from error


def as_questions(rows: list[dict], spec: str, flag: str) -> list[dict[str, str]]:
    """The rows of any of the accepted forms with `question` and `answer`.

    Raises:
        InputError: they have other columns, or a text is missing.
    """
    columns = set(rows[0]) if rows else set()
    for instruction, context, answer in FORMATS:
        if {instruction, answer} <= columns:
            # Published sets hold a few empty outputs, which teach nothing.
            rows = [
                {"question": _joined(row.get(instruction), row.get(context)), "answer": row[answer]}
                for row in map(_without_nothing, rows)
                if str(row.get(answer) or "").strip()
            ]
            break
    else:
        if not {"question", "answer"} <= columns:
            raise InputError(
                f"{flag} {spec!r} has the columns {', '.join(sorted(columns)) or '(none)'}; needed are "
                "instruction and output (Alpaca), instruction and response (Dolly), or question and answer"
            )
    validate_rows(rows, "instruction data")
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def _without_nothing(row: dict) -> dict:
    """NaN, which a data frame writes for an empty cell, is none."""
    return {name: None if value != value else value for name, value in row.items()}


def _joined(*parts: Any) -> Any:
    """Both texts, of which the second may be missing; what is no text is left as it is, for `validate_rows` to name."""
    given = [part for part in parts if part]
    return "\n".join(given) if all(isinstance(part, str) for part in given) else given[0]
