"""What relearning does inside a model: its neurons before and after adversarial reinjection.

The attack is that of `attacks.relearning`, with its loop, facts and copies; only here it is the attacked model that is
looked at, by the rows that were never reinjected. Where the same neurons speak for those as in the original, they were
only silenced.

Source: Yang et al., "Erase or Hide?", arXiv 2509.22263.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from transformers import PreTrainedModel

from llm_unlearn.attacks.copies import attackable_copy
from llm_unlearn.attacks.relearning import AttackBudget, relearn, split_facts
from llm_unlearn.audits.audit import Audit, Inspection, Measure
from llm_unlearn.audits.influence import ModelInfluence, attribution_correlation, neuron_influence
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.errors import InputError


def reinjected_influence(
    model: PreTrainedModel,
    forget_rows: Sequence[EncodedRow],
    fact_ids: Sequence[str | int],
    budget: AttackBudget,
    seed: int,
    *,
    score: str = "log_odds",
    batch_size: int = 16,
) -> tuple[ModelInfluence, ModelInfluence]:
    """Influence before and after the attack's last step on the rows that it did not train on; `model` stays as it is.

    Args:
        fact_ids: the fact of each row; the same facts are reinjected as in the attack with this seed.
        budget: of its attackers and learning rates, only the first is run.
        score: as in `neuron_influence`.

    Raises:
        InputError: fewer than two facts, or as `neuron_influence`.
        DivergenceError: the attack's learning rate is too high.
    """
    injected, scored = split_facts(fact_ids, budget.fraction, seed)
    rows = [forget_rows[i] for i in scored]
    before = neuron_influence(model, rows, score, batch_size)
    attacker, learning_rate = budget.grid[0]
    attacked = attackable_copy(model, budget.lora_r if attacker == "lora" else None, seed)
    relearn(attacked, [forget_rows[i] for i in injected], budget, learning_rate, seed)
    return before, neuron_influence(attacked, rows, score, batch_size)


def _start(inspection: Inspection) -> Measure | None:
    if inspection.budget is None:
        return None
    if len(set(inspection.facts)) < 2:
        raise InputError("reinjection needs at least two forget facts")
    originals: dict[int, ModelInfluence] = {}  # on the rows that are left after the reinjection of each seed

    def measure(_name: str, model: PreTrainedModel) -> dict[str, Any]:
        return {"attribution": [_attribution(inspection, model, seed, originals) for seed in inspection.budget.seeds]}

    return measure


def _attribution(
    inspection: Inspection, model: PreTrainedModel, seed: int, originals: dict[int, ModelInfluence]
) -> dict[str, Any]:
    before, after = reinjected_influence(
        model,
        inspection.rows,
        inspection.facts,
        inspection.budget,
        seed,
        score=inspection.score,
        batch_size=inspection.batch_size,
    )
    original = originals.setdefault(seed, before)  # the original comes first
    return {
        "seed": seed,
        "rows": len(before.rows),
        "probability_before": fmean(row["probability"] for row in before.rows),
        "probability_after": fmean(row["probability"] for row in after.rows),
        "before_and_after": attribution_correlation(before, after),
        "original_and_before": attribution_correlation(original, before),
        "original_and_after": attribution_correlation(original, after),
    }


AUDIT = Audit(
    "relearning",
    summary="whether the same neurons speak for the forgotten answers after reinjection, and as in the original",
    sections=("attribution",),
    start=_start,
)
