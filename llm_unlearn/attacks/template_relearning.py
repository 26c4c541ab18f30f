"""Template relearning: train on the same questions about other people, whom no model knows, and score every forget row.

Nothing that was forgotten is told, and yet the form is: what a benign tuning brings back is driven by how alike its
sentences are to the forgotten ones, more than by its subject.

Source: after arXiv 2602.03379 (benign relearning is driven by syntactic similarity).
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


def template_relearning(
    model: PreTrainedModel,
    holdout_rows: Sequence[EncodedRow],
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    title: str = "template tuning",
    *,
    answer: Answerer | None = None,
    made_up: MadeUpRows | None = None,
) -> dict:
    """Train on rows about other people; score all forget rows. Returns what `summarize_runs` returns.

    Args:
        holdout_rows: what the same templates ask about people that were in nobody's training.
        answer: generates the sample texts of `summarize_runs`; None: there are none.
        made_up: what knowledge is measured with; None: it is not.
    """
    if not holdout_rows:
        raise InputError("template relearning needs holdout rows, got none: give rows about other people")
    choose = other_data(holdout_rows, forget_rows)
    return relearning_attack(model, choose, forget_rows, retain_rows, budget, title, answer, made_up)


def _check(target: Target) -> None:
    if target.data.holdout is None:
        raise InputError(
            "attacks: template_relearning needs rows about people that no model was trained on (the holdout split of "
            "the fictional world or of TOFU), and this data has none; leave it out"
        )


def _run(target: Target) -> dict:
    tuning = target.encoded(target.data.holdout, "holdout set")
    rows = (tuning, target.forget, target.retain, target.budget, target.title)
    return template_relearning(target.model, *rows, **target.beside) | target.units


ATTACK = Attack(
    "template_relearning",
    summary="tune on what the same templates ask about other people",
    title="Template tuning",
    label="template tuning",
    on_card="tuned on answers to the same questions about other people",
    run=_run,
    check=_check,
    rates="benign",
    needs=("holdout",),
)
