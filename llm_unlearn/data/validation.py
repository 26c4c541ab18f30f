"""Checks on whole datasets, run before any model is loaded, so that bad rows cost seconds and not hours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datasets import Dataset

from llm_unlearn.data.formats import Prompt, Row, question_text, row_format, rows_at_once, split_row
from llm_unlearn.data.identity import question_key
from llm_unlearn.errors import InputError, excerpt

Rows = Dataset | Sequence[Row]  # rows count from 0, as in `dataset[0]`
NEAR_DUPLICATES = ("refuse", "allow")
LABELS = ("fact_id", "person", "attribute", "kind")  # what rows are grouped by
EXCERPT = 80  # characters of a row in a message


def validate_rows(dataset: Rows, name: str) -> None:
    """Check that every row has a question and an answer (or the texts of its row format).

    Raises:
        InputError: as `split_rows`.
    """
    split_rows(dataset, name)


def validate_forget_retain(forget: Rows, retain: Rows | None, near_duplicates: str = "refuse") -> None:
    """Check that no question is both to be forgotten and retained.

    Args:
        retain: may be None: some methods have no retain loss.
        near_duplicates: "allow": only rows with the same answer, too, are refused.

    Raises:
        InputError: as `validate_asked_apart`.
    """
    if retain is not None:
        validate_asked_apart(near_duplicates, forget=forget, retain=retain)


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


def validate_asked_apart(near_duplicates: str, **sets: Rows) -> None:
    """As `validate_apart`, and that the two sets share no question (plain text: no text), whatever the answers are.

    Args:
        near_duplicates: "refuse", or "allow": questions that both sets ask may have other answers.

    Raises:
        InputError: as `validate_apart`; or a question (`identity.question_key`) is in both sets: the message has the
            first such row of each.
    """
    if near_duplicates not in NEAR_DUPLICATES:
        raise InputError(f"near_duplicates={near_duplicates!r}: choose one of {', '.join(NEAR_DUPLICATES)}")
    validate_apart(**sets)
    if near_duplicates == "allow":
        return
    (first, first_pairs), (second, second_pairs) = (
        (f"{name.replace('_', ' ')} set", split_rows(rows, f"{name} set")) for name, rows in sets.items()
    )
    places: dict[tuple, int] = {}
    for number, pair in enumerate(second_pairs):
        places.setdefault(question_key(*pair), number)
    keys = [question_key(*pair) for pair in first_pairs]
    shared = [(number, places[key]) for number, key in enumerate(keys) if key in places]
    if shared:
        one, other = shared[0]
        raise InputError(
            f"{first} row {one} ({_excerpt(*first_pairs[one])}) asks the same as {second} row {other} "
            f"({_excerpt(*second_pairs[other])}); such rows: {len(shared)}; remove one of the two, or keep both with "
            "--near_duplicates allow (near_duplicates='allow')"
        )


def validate_trained(
    forget: Dataset | None,
    retain: Dataset | None,
    general: Dataset | None,
    retain_loss: str,
    near_duplicates: str = "refuse",
) -> None:
    """Check the data sets of an `UnlearnTrainer` with this retain loss.

    Raises:
        InputError: one that is needed is missing, one is empty or malformed, or a row that is to be forgotten is in
            another of them, as `validate_asked_apart` has it.
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
            validate_asked_apart(near_duplicates, **{"forget": forget, name: rows})


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
    for number, row in enumerate(rows_at_once(dataset)):
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
    for column in LABELS:
        if isinstance(row.get(column), (list, dict)):
            raise InputError(f"column {column!r} holds {excerpt(row[column])}; it must be a string or a number")


def _excerpt(prompt: Prompt, answer: str) -> str:
    text = " ".join((question_text(prompt) or answer).split())
    return repr(text if len(text) <= EXCERPT else f"{text[: EXCERPT - 1]}…")


def row_keys(dataset: Rows, name: str) -> list[tuple]:
    """What each row says, outer whitespace aside: rows with equal keys are one row; `name` is for errors."""
    return [
        (*((message["role"], message["content"].strip()) for message in prompt), answer.strip())
        for prompt, answer in split_rows(dataset, name)
    ]
