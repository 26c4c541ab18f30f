"""Block relearning: adversarial reinjection that tunes the transformer blocks alone, embeddings and head frozen.

The counterpart of `head_relearning`: what comes back in the blocks, and not by a new head, has to be put into the
hidden states again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from llm_unlearn.attacks.adversarial_reinjection import ATTACK as REINJECTION
from llm_unlearn.attacks.adversarial_reinjection import adversarial_reinjection
from llm_unlearn.attacks.attack import Attack, Target
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.data.collators import EncodedRow


def block_relearning(
    model: PreTrainedModel,
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    fact_ids: Sequence[str | int] | None = None,
    title: str = "block reinjection",
    **beside: Any,
) -> dict:
    """As `adversarial_reinjection`, by full fine-tuning of this part; runs have the attacker "blocks"."""
    rows = (forget_rows, retain_rows, budget, fact_ids, title)
    return adversarial_reinjection(model, *rows, part="blocks", **beside)


def _run(target: Target) -> dict:
    rows = (target.forget, target.retain, target.budget, target.fact_ids, target.title)
    return block_relearning(target.model, *rows, pool=target.pool, **target.beside) | target.units


ATTACK = Attack(
    "block_relearning",
    summary="reinjection that tunes the transformer blocks alone",
    title="Block reinjection",
    label="block reinjection",
    on_card="{share} of the facts are taught again to the transformer blocks alone, the others are asked for",
    run=_run,
    check=REINJECTION.check,
    rates="reinjection",
    taught=REINJECTION.taught,
    needs=("pool",),
)
