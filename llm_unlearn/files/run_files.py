"""What a run writes beside its model, in the forms that everything else reads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedConfig

from llm_unlearn.data import question_text, row_format, split_row
from llm_unlearn.errors import InputError

_READ = {"question": (str,), "answer": (str,), "person": (str, int), "fact_id": (str, int)}  # of a row
RERUN = "run the recipe again, or give another folder"


def write_rows(output: Path, **datasets: Dataset | None) -> dict[str, str]:
    """Write each data set as `question`/`answer` lines, so that anyone can judge a run again; returns their paths."""
    paths = {}
    for name, dataset in datasets.items():
        if dataset is None:
            continue
        form = row_format(dataset.column_names)
        path = output / f"{name}.jsonl"
        with open(path, "w", encoding="utf-8") as file:
            for row in dataset:
                prompt, answer = split_row(row, form)
                line = {"question": question_text(prompt), "answer": answer}
                line |= {name: row[name] for name in ("fact_id", "person") if name in row}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        paths[name] = str(path.resolve())
    return paths


def read_json(path: Path, fix: str, *, finite: bool = True) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        fix: what to do where there is none; it ends the error.
        finite: refuse NaN and infinite numbers, which no run writes; configurations of models may have them.

    Raises:
        InputError: the file is missing, or no JSON object.
    """
    parsed = {"parse_constant": _finite, "parse_float": _finite} if finite else {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"), **parsed)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {fix}") from error
    except (ValueError, RecursionError) as error:  # neither JSON nor even text
        raise InputError(f"{path} is not valid JSON ({error}): {fix}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, not an object: {fix}")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text:.40} is no finite number")
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_rows` wrote; none where there is no file.

    Raises:
        InputError: the file cannot be read, or a line is no such row.
    """
    if not path.is_file():
        return []
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        rows = [json.loads(line) for line in lines]
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} is not valid JSON lines ({error}): {RERUN}") from error
    for number, row in enumerate(rows, start=1):
        told = [(row.get(name), kinds) for name, kinds in _READ.items()] if isinstance(row, dict) else [(row, ())]
        if not all(value is None or type(value) in kinds for value, kinds in told):
            raise InputError(f"{path}, line {number} is no row with a question and an answer: {RERUN}")
    return rows


def absolute(name_or_path: str) -> str:
    """A folder or file from wherever it is looked at; a hub id as it is."""
    return str(Path(name_or_path).resolve()) if Path(name_or_path).exists() else name_or_path


def pinned(name_or_path: str, config: PreTrainedConfig) -> str:
    """`absolute`, and a hub id with the commit that the model was loaded at: "owner/name@commit".

    Args:
        config: of the loaded model.
    """
    commit = getattr(config, "_commit_hash", None)
    if commit is None or Path(name_or_path).exists():
        return absolute(name_or_path)
    return f"{name_or_path.partition('@')[0]}@{commit}"
