"""Adversarial reinjection: train on a fraction of the forget facts, and score the facts that were never reinjected.

Source: Yang et al., arXiv 2509.22263, with its pool of forgotten rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from llm_unlearn.attacks.attack import Attack, Target
from llm_unlearn.attacks.relearning import (
    Answerer,
    AttackBudget,
    Choice,
    MadeUpRows,
    relearning_attack,
    split_facts,
)
from llm_unlearn.data.collators import EncodedRow


def adversarial_reinjection(
    model: PreTrainedModel,
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    fact_ids: Sequence[str | int] | None = None,
    title: str = "reinjection",
    *,
    pool: Sequence[int] | None = None,
    answer: Answerer | None = None,
    made_up: MadeUpRows | None = None,
    part: str | None = None,
) -> dict:
    """Train on a fraction of the forget facts; score the rest. Returns what `summarize_runs` returns.

    Args:
        retain_rows: scored along the curve, never trained.
        fact_ids: the fact of each forget row; by default every row is a fact of its own.
        pool: numbers of the forget rows that are injected and scored; by default all. To be compared, models need the
            same pool: the `forgotten_rows` of the unlearned one.
        answer: generates the sample texts of `summarize_runs`; None: there are none.
        made_up: what knowledge is measured with; None: it is not.
        part: all that is trained, as in `relearning_attack`.
    """
    pool = range(len(forget_rows)) if pool is None else pool
    facts = range(len(forget_rows)) if fact_ids is None else fact_ids

    def choose(seed: int) -> list[Choice]:
        injected, scored = _split(facts, pool, budget, seed)
        return [Choice([forget_rows[i] for i in injected], injected, scored)]

    return relearning_attack(model, choose, forget_rows, retain_rows, budget, title, answer, made_up, part)


def _split(
    facts: Sequence[str | int], pool: Sequence[int], budget: AttackBudget, seed: int
) -> tuple[list[int], list[int]]:
    """Numbers of the rows of the pool that one seed injects and scores."""
    injected, scored = split_facts([facts[i] for i in pool], budget.fraction, seed)
    return [pool[i] for i in injected], [pool[i] for i in scored]


def _taught(target: Target) -> list[tuple[list[int], list[int]]]:
    facts = target.fact_ids
    pool = range(len(facts)) if target.pool is None else target.pool
    return [_split(facts, pool, target.budget, seed) for seed in target.budget.seeds]


def _check(target: Target) -> None:
    split_facts(target.fact_ids, target.budget.fraction, seed=0)


def reinject(target: Target, part: str | None = None) -> dict:
    """`adversarial_reinjection` of a target; all that is trained is a `part`, as in `relearning_attack`."""
    rows = (target.forget, target.retain, target.budget, target.fact_ids, target.title)
    return adversarial_reinjection(target.model, *rows, pool=target.pool, part=part, **target.beside) | target.units


ATTACK = Attack(
    "adversarial_reinjection",
    summary="teach some of the forgotten facts again, ask for the others",
    title="Adversarial reinjection",
    label="reinjection",
    on_card="{share} of the facts are taught again, the others are asked for",
    run=reinject,
    check=_check,
    rates="reinjection",
    taught=_taught,
    needs=("pool",),
)
