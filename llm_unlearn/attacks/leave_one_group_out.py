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
from llm_unlearn.errors import InputError


def leave_one_group_out(
    model: PreTrainedModel,
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    groups: Sequence[str | int],
    title: str = "leaving one group out",
    *,
    fact_ids: Sequence[str | int] | None = None,
    answer: Answerer | None = None,
    made_up: MadeUpRows | None = None,
) -> dict:
    """Train on all groups of forget rows but one; score that one. Returns what `summarize_runs` returns.

    Args:
        retain_rows: scored along the curve, never trained.
        groups: the group of each forget row; `budget.left_out_groups` of them are left out in turn.
        fact_ids: the fact of each forget row: what is scored is not taught as a row of another group either; by default
            every row is a fact of its own.
        answer: generates the sample texts of `summarize_runs`; None: there are none.
        made_up: what knowledge is measured with; None: it is not.
    """
    facts = range(len(forget_rows)) if fact_ids is None else fact_ids
    choices = [
        Choice([forget_rows[i] for i in injected], injected, scored, str(groups[scored[0]]))
        for injected, scored in _splits(groups, facts, budget)
    ]

    def choose(_seed: int) -> list[Choice]:
        return choices

    return relearning_attack(model, choose, forget_rows, retain_rows, budget, title, answer, made_up)


def _splits(
    groups: Sequence[str | int], facts: Sequence[str | int], budget: AttackBudget
) -> list[tuple[list[int], list[int]]]:
    """Numbers of the rows that are injected and scored, of each group that is left out."""
    rows, splits = range(len(groups)), []
    for group in choose_left_out(groups, budget.left_out_groups):
        scored = [i for i in rows if groups[i] == group]
        asked = {facts[i] for i in scored}
        injected = [i for i in rows if groups[i] != group and facts[i] not in asked]
        if not injected:
            raise InputError(
                f"leave_one_group_out: the facts of group {group!r} are those of all other groups, and nothing is left "
                "to train on: choose another column with leave_out_column"
            )
        splits.append((injected, scored))
    return splits


def _taught(target: Target) -> list[tuple[list[int], list[int]]]:
    return _splits(target.groups, target.fact_ids, target.budget)


def _run(target: Target) -> dict:
    rows = (target.forget, target.retain, target.budget, target.groups, target.title)
    return leave_one_group_out(target.model, *rows, fact_ids=target.fact_ids, **target.beside) | target.units


ATTACK = Attack(
    "leave_one_group_out",
    summary="teach all forget groups but one, ask for that one",
    title="Leaving one group out",
    label="leaving one group out",
    heading="one group left out",
    on_card="all groups but one are taught again, that one is asked for",
    run=_run,
    check=_taught,
    rates="reinjection",
    taught=_taught,
    needs=("groups",),
)
