"""Other answers to the forget questions: what the model shall say instead."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from llm_unlearn.data.formats import read_text, row_format, split_row
from llm_unlearn.data.made_up import MadeUpAnswers, kind_column
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
REFUSAL, GUESS, SAMPLED = "refusal", "guess", "sampled"
SOURCES = (REFUSAL, GUESS, SAMPLED)


def other_answers(
    dataset: Dataset, column: str | None, seed: int, replace_with: str = REFUSAL, retain: Dataset | None = None
) -> list[str]:
    """One text for each row: from a column, or one that `seed` draws for it.

    Args:
        column: of texts, or of lists of texts of which one is drawn; it goes before `replace_with`.
        retain: rows that guesses are taken from where no other row of `dataset` has an answer of the kind.
        replace_with: "refusal"; "guess": the answer of another row of the same kind (`made_up.kind_column`); or a file
            with one text in each line, plain or as JSON.

    Raises:
        InputError: no such column or file, nothing in it, or no other answer of a row's kind.
    """
    if column is not None:
        return _of_column(dataset, column, seed)
    if replace_with == GUESS:
        return _guesses(dataset, seed, retain)
    texts = REFUSALS if replace_with == REFUSAL else _of_file(Path(replace_with))
    return [_drawn(texts, seed, number) for number in range(len(dataset))]


def own_refusals(replace_with: str, flag: str = "replace_with") -> tuple[str, ...]:
    """The texts of a user's file: they go with any question, so they answer none. () where it is no file.

    Args:
        flag: what errors call it.

    Raises:
        InputError: no such file, or nothing in it.
    """
    return () if replace_with in SOURCES else tuple(_of_file(Path(replace_with), flag))


def with_other_answers(dataset: Dataset, texts: Sequence[str], true_allowed: bool = False) -> Dataset:
    """The prompts of the rows with other completions.

    Args:
        true_allowed: guesses, of which some are right by chance.

    Raises:
        InputError: rows are plain texts, which ask nothing, or an other answer is the true one.
    """
    form = row_format(dataset.column_names)
    if form == "text":
        raise InputError("forget_dataset: rows with a `text` ask nothing that could be answered in another way")
    rows = []
    for number, (row, text) in enumerate(zip(dataset, texts, strict=True)):
        prompt, answer = split_row(row, form)
        if not true_allowed and is_same(text, answer):
            raise InputError(f"alternate answers: that of forget row {number} is the true one ({excerpt(text)})")
        rows.append({"prompt": prompt, "completion": text})
    return Dataset.from_list(rows)


def is_same(text: str, answer: str) -> bool:
    """Whether two answers differ in nothing but case and white space."""
    return " ".join(text.split()).casefold() == " ".join(answer.split()).casefold()


def _drawn(texts: Sequence[str], seed: int, number: int) -> str:
    return random.Random(f"{seed} {number}").choice(texts)


def _of_column(dataset: Dataset, column: str, seed: int) -> list[str]:
    if column not in dataset.column_names:
        raise InputError(
            f"alternate_column={column!r} is no column of the forget rows: choose from "
            f"{', '.join(dataset.column_names)}, or leave it out for refusals"
        )
    texts = []
    for number, value in enumerate(dataset[column]):
        choices = value if isinstance(value, list) else [value]
        if not choices or not all(isinstance(text, str) and text.strip() for text in choices):
            raise InputError(f"alternate_column={column!r}: row {number} of the forget rows has no text there")
        texts.append(_drawn(choices, seed, number))
    return texts


def _guesses(dataset: Dataset, seed: int, retain: Dataset | None) -> list[str]:
    column = kind_column(dataset)
    if column is None:
        raise InputError(
            "replace_with='guess' takes answers of other rows of the same kind, and no column says which are: give the "
            "forget rows an `attribute` (or `kind`), or name a column of wrong answers in alternate_column"
        )
    answers = MadeUpAnswers(dataset, column)
    choices = [answers.of(number) for number in range(len(dataset))]
    if not all(choices) and retain is not None and column in retain.column_names:
        answers = MadeUpAnswers(_together(dataset, retain), column)
        choices = [own or answers.of(number) for number, own in enumerate(choices)]
    if not all(choices):
        number = next(number for number, found in enumerate(choices) if not found)
        raise InputError(
            f"replace_with='guess': no other row has an answer of the kind of forget row {number}'s ({column} "
            f"{excerpt(str(dataset[number][column]))}); name a column of wrong answers in alternate_column, or take "
            "refusal or sampled"
        )
    return [_drawn(found, seed, number) for number, found in enumerate(choices)]


def _together(dataset: Dataset, retain: Dataset) -> Dataset:
    """The rows of both, in the columns that both have; those of the first alone where the two are of other formats."""
    if row_format(dataset.column_names) != row_format(retain.column_names):
        return dataset
    shared = [name for name in dataset.column_names if name in retain.column_names]
    return Dataset.from_list([{name: row[name] for name in shared} for row in (*dataset, *retain)])


def _of_file(path: Path, flag: str = "replace_with") -> list[str]:
    """The texts of a file, one in each line: a JSON string, an object with one text, or the line as it is."""
    if not path.is_file():
        choices = f", or choose from {', '.join(SOURCES)}" if flag == "replace_with" else ""
        raise InputError(f"{flag}={str(path)!r} is no file; give one{choices}")
    texts = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        text = line.strip()
        if text.startswith(('"', "{")):
            try:
                value = json.loads(text)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: no JSON ({error})") from error
            values = [one for one in value.values() if isinstance(one, str)] if isinstance(value, dict) else [value]
            if len(values) != 1 or not isinstance(values[0], str):
                raise InputError(f"{path}, line {number}: give one text, not {excerpt(line)}")
            text = values[0].strip()
        if text:
            texts.append(text)
    if not texts:
        raise InputError(f"{flag}={str(path)!r} has no text in it; give one in each line")
    return texts
