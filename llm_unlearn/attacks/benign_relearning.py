"""Benign relearning: train on harmless instructions, and score every forget row.

Source: Hu et al. 2024, arXiv 2406.13356; Yang et al., arXiv 2509.22263 (benign tuning).
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


def benign_relearning(
    model: PreTrainedModel,
    instruction_rows: Sequence[EncodedRow],
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    title: str = "benign tuning",
    *,
    answer: Answerer | None = None,
    made_up: MadeUpRows | None = None,
) -> dict:
    """Train on instructions; score all forget rows. Returns what `summarize_runs` returns.

    Args:
        answer: generates the sample texts of `summarize_runs`; None: there are none.
        made_up: what knowledge is measured with; None: it is not.
    """
    if not instruction_rows:
        raise InputError("benign relearning needs instruction rows, got none")
    choose = other_data(instruction_rows, forget_rows)
    return relearning_attack(model, choose, forget_rows, retain_rows, budget, title, answer, made_up)


def _run(target: Target) -> dict:
    tuning = target.encoded(target.instructions, "instructions")
    rows = (tuning, target.forget, target.retain, target.budget, target.title)
    return benign_relearning(target.model, *rows, **target.beside) | target.units


ATTACK = Attack(
    "benign_relearning",
    summary="tune on harmless instructions",
    title="Benign tuning",
    label="benign tuning",
    on_card="tuned on harmless instructions",
    run=_run,
    rates="benign",
    needs=("instructions",),
)
