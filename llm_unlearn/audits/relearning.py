"""What relearning does inside a model: its neurons before and after adversarial reinjection.

The attack is that of `attacks.relearning`, with its loop, facts and copies; only here it is the attacked model that is
looked at, by the rows that were never reinjected. Where the same neurons speak for those as in the original, they were
only silenced.

Source: Yang et al., "Erase or Hide?", arXiv 2509.22263.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from llm_unlearn.attacks.copies import attackable_copy
from llm_unlearn.attacks.relearning import AttackBudget, relearn, split_facts
from llm_unlearn.audits.influence import ModelInfluence, neuron_influence
from llm_unlearn.data.collators import EncodedRow


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
