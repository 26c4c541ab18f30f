"""Instruction data for benign relearning: the embedded set, or a local file in the Alpaca or question/answer format."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from llm_unlearn.data.fictional import build_world
from llm_unlearn.data.formats import read_rows
from llm_unlearn.data.validation import validate_rows
from llm_unlearn.errors import InputError


def load_instructions(spec: str = "embedded", size: str = "small") -> Dataset:
    """Rows with `question` and `answer`.

    Args:
        spec: "embedded" (instructions of the fictional world that its models were not trained on), or the path of a
            JSON, JSON lines, CSV or Parquet file with Alpaca's columns (instruction, optional input, output) or with
            question and answer.
        size: of the fictional world whose instructions are meant.

    Raises:
        InputError: no such file, or neither pair of columns.
    """
    if spec == "embedded":
        return Dataset.from_list(build_world(size).splits["instructions"])
    if not Path(spec).is_file():
        raise InputError(
            f"instruction data {spec!r} is neither 'embedded' nor a file (looked in {Path(spec).absolute()})"
        )
    rows = read_rows(Path(spec))
    columns = set(rows[0]) if rows else set()
    if {"instruction", "output"} <= columns:
        rows = [_from_alpaca(row) for row in rows if str(row["output"]).strip()]
    elif not {"question", "answer"} <= columns:
        raise InputError(
            f"instruction data {spec!r} has the columns {', '.join(sorted(columns)) or '(none)'}; needed are "
            "instruction and output (Alpaca), or question and answer"
        )
    validate_rows(rows, "instruction data")
    return Dataset.from_list([{"question": row["question"], "answer": row["answer"]} for row in rows])


def _from_alpaca(row: dict) -> dict[str, str]:
    question = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return {"question": question, "answer": row["output"]}
