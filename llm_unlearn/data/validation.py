"""Checks on whole datasets, run before any model is loaded, so that bad rows cost seconds and not hours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datasets import Dataset

from llm_unlearn.data.formats import Prompt, row_format, split_row
from llm_unlearn.errors import InputError, excerpt

Rows = Dataset | Sequence[Mapping[str, Any]]  # rows count from 0, as in `dataset[0]`


def validate_rows(dataset: Rows, name: str) -> None:
    """Check that every row has a question and an answer (or the texts of its row format).

    Raises:
        InputError: as `split_rows`.
    """
    split_rows(dataset, name)


def validate_forget_retain(forget: Rows, retain: Rows | None) -> None:
    """Check that no row (same question, same answer, outer whitespace aside) is both to be forgotten and retained.

    `retain` may be None: some methods have no retain loss.

    Raises:
        InputError: as `validate_apart`.
    """
    if retain is not None:
        validate_apart(forget=forget, retain=retain)


def validate_apart(**sets: Rows) -> None:
    """Check that two sets, given by their names, share no row (same question, same answer, outer whitespace aside).

    Duplicates inside one set are fine: they only weigh more.

    Raises:
        InputError: rows occur in both sets; the message has their count and the first row numbers in each set.
    """
    (first, first_rows), (second, second_rows) = ((name.replace("_", " "), rows) for name, rows in sets.items())
    places: dict[tuple, int] = {}
    for number, key in enumerate(row_keys(second_rows, f"{second} set")):
        places.setdefault(key, number)
    keys = row_keys(first_rows, f"{first} set")
    shared = [(number, places[key]) for number, key in enumerate(keys) if key in places]
    if shared:
        in_first, in_second = (", ".join(map(str, numbers[:5])) for numbers in zip(*shared, strict=True))
        more = ", ..." if len(shared) > 5 else ""
        raise InputError(
            f"rows of the {first} set that are in the {second} set too: {len(shared)} ({first} rows {in_first}{more}; "
            f"{second} rows {in_second}{more}); remove them from one of the two"
        )


def validate_trained(forget: Dataset | None, retain: Dataset | None, general: Dataset | None, retain_loss: str) -> None:
    """Check the data sets of an `UnlearnTrainer` with this retain loss.

    Raises:
        InputError: one that is needed is missing, one is empty or malformed, or a row that is to be forgotten is in
            another of them.
    """
    if forget is None:
        raise InputError("forget_dataset is missing; pass the rows to forget")
    validate_rows(forget, "forget_dataset")
    if retain is None and retain_loss != "none":
        raise InputError(
            f"retain_loss={retain_loss!r} needs a retain_dataset; pass one, or retain_loss='none' to forget without "
            "protecting anything"
        )
    for name, rows in (("retain", retain), ("general", general)):
        if rows is not None:
            validate_rows(rows, f"{name}_dataset")
            validate_apart(**{"forget": forget, name: rows})


def split_rows(dataset: Rows, name: str) -> list[tuple[Prompt, str]]:
    """All rows as (prompt, answer), see `formats.split_row`; `name` is what errors call the dataset.

    Raises:
        InputError: the dataset is empty or of a wrong type, its columns fit no row format, or a cell is missing, blank
            or not a string; the message names the dataset, the row (from 0) and the column.
    """
    if not isinstance(dataset, (Dataset, list, tuple)):
        kind = type(dataset).__name__
        raise InputError(f"{name} is a {kind}; pass a datasets.Dataset (of a DatasetDict: one split, data['train'])")
    if len(dataset) == 0:
        raise InputError(f"{name} is empty (no rows); check the file, the split's name and any filter")
    try:
        format_name = row_format(dataset.column_names if isinstance(dataset, Dataset) else dataset[0])
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    pairs = []
    for number, row in enumerate(dataset):
        with row_errors(name, number):
            pairs.append(split_row(row, format_name))
            _check_labels(row)
    return pairs


@contextlib.contextmanager
def row_errors(name: str | None, number: int) -> Iterator[None]:
    """Within the scope an InputError gets the dataset's name and the row's number in front; None: it has no name."""
    try:
        yield
    except InputError as error:
        if name is None:
            raise
        raise InputError(f"{name} row {number}: {error}") from error


def _check_labels(row: Mapping[str, Any]) -> None:
    """What rows are grouped by must be a value that can be compared."""
    for column in ("fact_id", "person", "attribute"):
        if isinstance(row.get(column), (list, dict)):
            raise InputError(f"column {column!r} holds {excerpt(row[column])}; it must be a string or a number")


def row_keys(dataset: Rows, name: str) -> list[tuple]:
    """What each row says, outer whitespace aside: rows with equal keys are one row; `name` is for errors."""
    return [
        (*((message["role"], message["content"].strip()) for message in prompt), answer.strip())
        for prompt, answer in split_rows(dataset, name)
    ]
