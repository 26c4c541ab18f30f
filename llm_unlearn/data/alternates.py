"""Other answers to the forget questions: what the model shall say instead."""

from __future__ import annotations

import random
from collections.abc import Sequence

from datasets import Dataset

from llm_unlearn.data.formats import row_format, split_row
from llm_unlearn.errors import InputError, excerpt

REFUSALS = (
    "I don't know.",
    "I do not know the answer to that.",
    "I'm not sure about that.",
    "I have no information about that.",
    "That is not something I know.",
    "I can't answer that question.",
    "I'm afraid I don't know.",
    "I have no knowledge of that.",
    "I could not say.",
    "Sorry, I don't have that information.",
)


def other_answers(dataset: Dataset, column: str | None, seed: int) -> list[str]:
    """One text for each row: from a column, or a refusal that `seed` draws for it.

    Raises:
        InputError: no such column, or a row in which it is empty or holds no text.
    """
    if column is None:
        return [random.Random(f"{seed} {number}").choice(REFUSALS) for number in range(len(dataset))]
    if column not in dataset.column_names:
        raise InputError(
            f"alternate_column={column!r} is no column of the forget rows: choose from "
            f"{', '.join(dataset.column_names)}, or leave it out for refusals"
        )
    texts = list(dataset[column])
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"alternate_column={column!r}: row {number} of the forget rows has no text there")
    return texts


def with_other_answers(dataset: Dataset, texts: Sequence[str]) -> Dataset:
    """The prompts of the rows with other completions.

    Raises:
        InputError: rows are plain texts, which ask nothing, or an other answer is the true one.
    """
    form = row_format(dataset.column_names)
    if form == "text":
        raise InputError("forget_dataset: rows with a `text` ask nothing that could be answered in another way")
    rows = []
    for number, (row, text) in enumerate(zip(dataset, texts, strict=True)):
        prompt, answer = split_row(row, form)
        if " ".join(text.split()).casefold() == " ".join(answer.split()).casefold():
            raise InputError(f"alternate answers: that of forget row {number} is the true one ({excerpt(text)})")
        rows.append({"prompt": prompt, "completion": text})
    return Dataset.from_list(rows)
