"""Block relearning: adversarial reinjection that tunes the transformer blocks alone, embeddings and head frozen.

The counterpart of `head_relearning`: what comes back in the blocks, and not by a new head, has to be put into the
hidden states again.
"""

from __future__ import annotations

from functools import partial

from llm_unlearn.attacks.adversarial_reinjection import ATTACK as REINJECTION
from llm_unlearn.attacks.adversarial_reinjection import reinject
from llm_unlearn.attacks.attack import Attack

ATTACK = Attack(
    "block_relearning",
    summary="reinjection that tunes the transformer blocks alone",
    title="Block reinjection",
    label="block reinjection",
    on_card="{share} of the facts are taught again to the transformer blocks alone, the others are asked for",
    run=partial(reinject, part="blocks"),
    check=REINJECTION.check,
    rates="reinjection",
    taught=REINJECTION.taught,
    needs=("pool",),
)
