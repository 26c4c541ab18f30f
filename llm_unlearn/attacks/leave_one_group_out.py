"""Leaving one group out: train on all groups of forget rows but one (all people but one), and score that one."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from llm_unlearn.attacks.attack import Attack, Target
from llm_unlearn.attacks.relearning import (
    Answerer,
    AttackBudget,
    Choice,
    MadeUpRows,
    choose_left_out,
    relearning_attack,
)
from llm_unlearn.data.collators import EncodedRow


def leave_one_group_out(
    model: PreTrainedModel,
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    groups: Sequence[str | int],
    title: str = "leaving one group out",
    *,
    answer: Answerer | None = None,
    made_up: MadeUpRows | None = None,
) -> dict:
    """Train on all groups of forget rows but one; score that one. Returns what `summarize_runs` returns.

    Args:
        retain_rows: scored along the curve, never trained.
        groups: the group of each forget row; `budget.left_out_groups` of them are left out in turn.
        answer: generates the sample texts of `summarize_runs`; None: there are none.
        made_up: what knowledge is measured with; None: it is not.
    """
    left_out, rows = choose_left_out(groups, budget.left_out_groups), range(len(forget_rows))

    def choose(_seed: int) -> list[Choice]:
        choices = []
        for group in left_out:
            injected = [i for i in rows if groups[i] != group]
            scored = [i for i in rows if groups[i] == group]
            choices.append(Choice([forget_rows[i] for i in injected], injected, scored, str(group)))
        return choices

    return relearning_attack(model, choose, forget_rows, retain_rows, budget, title, answer, made_up)


def _check(target: Target) -> None:
    choose_left_out(target.groups, target.budget.left_out_groups)


def _run(target: Target) -> dict:
    rows = (target.forget, target.retain, target.budget, target.groups, target.title)
    return leave_one_group_out(target.model, *rows, **target.beside) | target.units


ATTACK = Attack(
    "leave_one_group_out",
    summary="teach all forget groups but one, ask for that one",
    title="Leaving one group out",
    label="leaving one group out",
    heading="one group left out",
    on_card="all groups but one are taught again, that one is asked for",
    run=_run,
    check=_check,
    rates="reinjection",
    needs=("groups",),
)
