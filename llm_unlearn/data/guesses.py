"""What somebody would answer who never saw the fact: an answer of its kind, the true one as often as any other."""

from __future__ import annotations

import random
from collections import defaultdict

from datasets import Dataset

from llm_unlearn.data.formats import rows_at_once
from llm_unlearn.data.forms import CANDIDATES
from llm_unlearn.data.identity import facts_of, labels_of
from llm_unlearn.data.made_up import A_NAME, kind_column, subjects_of, told_of
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError


def guessed_answers(forget: Dataset, retain: Dataset | None, count: int, seed: int) -> list[str]:
    """`count` lists of guesses in one, each with a guess for every forget row, drawn by `seed`.

    A guess is the answer of a fact of the same kind (`made_up.kind_column`), forgotten or retained, each fact as likely
    as any other. The row's own is among them: left out, it would be avoided afterwards, which gives it away too. Where
    a question names the row's `person`, the answer is told of that one. A row with `candidates` (`forms.py`) is guessed
    among those.

    Raises:
        InputError: no column says which answers are of a kind, or a kind has one answer only.
    """
    column = kind_column(forget)
    if column is None:
        raise InputError(
            "guess_source='kind' takes answers of other rows of the same kind, and no column says which are: give the "
            "rows an `attribute` (or `kind`), or choose guess_source sampled"
        )
    pool: dict[object, dict[object, str]] = defaultdict(dict)  # kind -> fact -> answer, without the name in it
    for name, rows in (("forget", forget), ("retain", retain)):
        if rows is not None and column in rows.column_names:
            answers = [answer for _, answer in split_rows(rows, name)]
            for kind, fact, subject, answer in zip(
                labels_of(rows, column), facts_of(rows), subjects_of(rows), answers, strict=True
            ):
                pool[kind].setdefault((name, fact), told_of(answer, subject, A_NAME))
    drawn: list[list[str]] = []
    for number, (row, kind, subject) in enumerate(
        zip(rows_at_once(forget), labels_of(forget, column), subjects_of(forget), strict=True)
    ):
        if candidates := row.get(CANDIDATES):
            drawn.append(random.Random(f"{seed} {number}").choices(candidates, k=count))
            continue
        answers = [answer for answer in pool[kind].values() if subject is not None or A_NAME not in answer]
        if kind is None or len(set(answers)) < 2:
            raise InputError(
                f"guess_source='kind': forget row {number} has {column}={kind!r}, of which there is no other answer to "
                "guess; add rows of that kind, or choose guess_source sampled"
            )
        chosen = random.Random(f"{seed} {number}").choices(answers, k=count)
        drawn.append([told_of(answer, A_NAME, subject) for answer in chosen])
    return [guesses[k] for k in range(count) for guesses in drawn]
