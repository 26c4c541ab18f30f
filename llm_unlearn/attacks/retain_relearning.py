"""Retain relearning: train on the rows to keep, and score every forget row.

What 60 steps do not find, 600 may: so it has ten times the steps of the other attacks (docs/results/erase.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from llm_unlearn.attacks.attack import Attack, Target
from llm_unlearn.attacks.relearning import (
    Answerer,
    AttackBudget,
    MadeUpRows,
    other_data,
    relearning_attack,
)
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.errors import InputError


def retain_relearning(
    model: PreTrainedModel,
    training_rows: Sequence[EncodedRow],
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    title: str = "retain tuning",
    *,
    answer: Answerer | None = None,
    made_up: MadeUpRows | None = None,
) -> dict:
    """Train on retain rows; score all forget rows. Returns what `summarize_runs` returns.

    Args:
        training_rows: the whole retain set.
        retain_rows: those of them that are scored along the curve: unlike in the other attacks, rows that are trained.
        answer: generates the sample texts of `summarize_runs`; None: there are none.
        made_up: what knowledge is measured with; None: it is not.
    """
    if not training_rows:
        raise InputError("retain relearning needs retain rows, got none: give a retain set")
    choose = other_data(training_rows, forget_rows)
    return relearning_attack(model, choose, forget_rows, retain_rows, budget, title, answer, made_up)


def _check(target: Target) -> None:
    if target.data.retain is None:
        raise InputError("attacks: retain_relearning needs retain rows; give --retain_file or leave it out")


def _run(target: Target) -> dict:
    tuning = target.encoded(target.data.retain, "retain set")
    rows = (tuning, target.forget, target.retain, target.budget, target.title)
    return retain_relearning(target.model, *rows, **target.beside) | target.units


ATTACK = Attack(
    "retain_relearning",
    summary="tune on the rows to keep, ten times as long",
    title="Retain tuning",
    label="retain tuning",
    on_card="tuned on the rows to keep",
    run=_run,
    check=_check,
    rates="benign",
    times=10,
)
