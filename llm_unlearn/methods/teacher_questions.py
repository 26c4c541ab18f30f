"""Of whom a counterfactual teacher is asked in place of whom a forget row is about, and along which answers."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.encoding import encode_row
from llm_unlearn.data.formats import Prompt, question_text, rows_at_once
from llm_unlearn.data.forms import CANDIDATES
from llm_unlearn.data.identity import labels_of
from llm_unlearn.data.made_up import (
    A_NAME,
    kind_column,
    says_name,
    says_part,
    subjects_of,
    told_of,
    told_of_whole,
)
from llm_unlearn.data.validation import split_rows
from llm_unlearn.data.value_said import COLUMN as VALUE
from llm_unlearn.methods.sampled_guesses import made_up_names, named_in_rows, people_of_all

OTHER_VALUES = 16  # of a kind that are asked about: each tells one name, so that more are needed than of made-up names


@dataclass(frozen=True)
class Question:
    """What is exchanged in one forget row.

    Attributes:
        asks_name: it does not say whom it is about; that is the answer.
        exchanged: what its question says, the person's name or a value; None: nothing can be exchanged there.
        others: for what that is exchanged. Where nothing is: the answers that it might have, the row's own first.
    """

    asks_name: bool
    exchanged: str | None
    others: list[str]


def teacher_questions(forget: Dataset, retain: Dataset | None, guesses: int, seed: int) -> list[Question]:
    """One for each forget row.

    - It says the name: `guesses` made-up names.
    - It asks for the name of who has its `value`: what retained people have of that kind.
    - It asks for the name otherwise: its answer with the name of everybody (`candidates`, or whom rows name, and as
      many made-up ones).

    Raises:
        InputError: a row does not name its `person`.
    """
    subjects = named_in_rows(forget, "teacher")
    known = people_of_all(subjects, retain)
    names = made_up_names(subjects, known, guesses, seed)
    of_kind, kind_of = _values(retain), {}
    for value, kind in zip(labels_of(forget, VALUE), labels_of(forget, "attribute"), strict=True):
        kind_of.setdefault(value, kind)  # rows in further forms, whose attribute has another name, come last
    found = []
    rows = zip(rows_at_once(forget), split_rows(forget, "forget_dataset"), subjects, strict=True)
    for row, (prompt, answer), subject in rows:
        question, value = question_text(prompt), row.get(VALUE)
        others = [other for other in of_kind.get(kind_of.get(value), ()) if other != value]
        if says_part(question, subject):
            found.append(Question(False, subject, names[subject]))
        elif isinstance(value, str) and others and says_name(question, value):
            drawn = random.Random(f"{kind_of[value]} {seed}").sample(others, min(OTHER_VALUES, len(others)))
            found.append(Question(True, value, drawn))
        else:
            people = [name for name in dict.fromkeys([*known, *names[subject]]) if name not in (None, subject)]
            answers = row.get(CANDIDATES) or [told_of_whole(answer, subject, name) for name in people]
            found.append(Question(True, None, [*dict.fromkeys([answer, *answers])]))
    return found


def answers_along(forget: Dataset, retain: Dataset | None, count: int, seed: int) -> list[list[str]]:
    """For each forget row, its own answer and up to `count` that others have: those of forgotten ones first.

    A question that asks for the name is answered with other people's, one with `candidates` with those that stand in
    it, any other as rows of the same kind (`made_up.kind_column`) are, told of the same person.

    Raises:
        InputError: a row does not name its `person`.
    """
    subjects, pairs = named_in_rows(forget, "teacher"), split_rows(forget, "forget_dataset")
    people = [name for name in dict.fromkeys(people_of_all(subjects, retain)) if name is not None]
    column, of_kind = kind_column(forget), defaultdict(dict)
    for rows in (forget, retain):
        if column is None or rows is None or column not in rows.column_names:
            continue
        answers = (answer for _, answer in split_rows(rows, "rows"))
        for kind, answer, name in zip(labels_of(rows, column), answers, subjects_of(rows), strict=True):
            of_kind[kind].setdefault(told_of(answer, name, A_NAME), rows is forget)
    kinds = labels_of(forget, column) if column else [None] * len(forget)
    found = []
    for row, (prompt, answer), subject, kind in zip(rows_at_once(forget), pairs, subjects, kinds, strict=True):
        question = question_text(prompt)
        if not says_part(question, subject):
            others = {told_of_whole(answer, subject, name): name in subjects for name in people}
        elif row.get(CANDIDATES):
            others = dict.fromkeys((one for one in row[CANDIDATES] if one in question.split("\n")), True)
        else:
            name = subject if says_name(question, subject) else None
            alike = of_kind[kind].items() if kind is not None else ()
            others = {told_of(one, A_NAME, name): own for one, own in alike if name or A_NAME not in one}
        others.pop(answer, None)
        parts = [[one for one in others if others[one] is forgotten] for forgotten in (True, False)]
        for part in parts:
            random.Random(f"{kind} {seed}").shuffle(part)
        found.append([answer, *(parts[0] or parts[1])][: count + 1])
    return found


def exchanged_rows(
    processing_class: PreTrainedTokenizerBase,
    pairs: Iterable[tuple[Prompt, str]],
    questions: Iterable[Question],
    max_length: int | None,
) -> list[list[EncodedRow]]:
    """Every prompt and answer, encoded, with each of what the question is exchanged for: (pairs, others); none where
    nothing is.
    """
    found = []
    for (prompt, answer), question in zip(pairs, questions, strict=True):
        old, exchange = question.exchanged, told_of if question.asks_name else told_of_whole
        found.append(
            [
                encode_row(
                    processing_class,
                    [{**message, "content": exchange(message["content"], old, other)} for message in prompt],
                    exchange(answer, old, other),
                    max_length,
                )
                for other in (question.others if old is not None else ())
            ]
        )
    return found


def _values(retain: Dataset | None) -> dict[str, list[str]]:
    """Kind -> what retained people have of it, each once."""
    found: dict[str, dict[str, None]] = {}
    if retain is not None:
        for value, kind in zip(labels_of(retain, VALUE), labels_of(retain, "attribute"), strict=True):
            if isinstance(value, str) and kind is not None:
                found.setdefault(kind, {}).setdefault(value)
    return {kind: [*values] for kind, values in found.items()}
