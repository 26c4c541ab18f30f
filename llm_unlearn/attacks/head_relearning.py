"""Head relearning: adversarial reinjection that tunes the output head alone.

Where the hidden states still carry an answer and only the head turns away from it, a new head finds it again, also of
facts that were never reinjected; where they do not, no head can. A head that is the input embedding, too (tied), is
trained as a tensor of its own. `block_relearning` is the counterpart.

Source: after arXiv 2604.08271 (outputs forget while features stay).
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


def head_relearning(
    model: PreTrainedModel,
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    fact_ids: Sequence[str | int] | None = None,
    title: str = "head reinjection",
    **beside: Any,
) -> dict:
    """As `adversarial_reinjection`, by full fine-tuning of this part; runs have the attacker "head"."""
    rows = (forget_rows, retain_rows, budget, fact_ids, title)
    return adversarial_reinjection(model, *rows, part="head", **beside)


def _run(target: Target) -> dict:
    rows = (target.forget, target.retain, target.budget, target.fact_ids, target.title)
    return head_relearning(target.model, *rows, pool=target.pool, **target.beside) | target.units


ATTACK = Attack(
    "head_relearning",
    summary="reinjection that tunes the output head alone",
    title="Head reinjection",
    label="head reinjection",
    on_card="{share} of the facts are taught again to the output head alone, the others are asked for",
    run=_run,
    check=REINJECTION.check,
    rates="reinjection",
    taught=REINJECTION.taught,
    needs=("pool",),
)
