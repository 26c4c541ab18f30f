"""Head relearning: adversarial reinjection that tunes the output head alone.

Where the hidden states still carry an answer and only the head turns away from it, a new head finds it again, also of
facts that were never reinjected; where they do not, no head can. A head that is the input embedding, too (tied), is
trained as a tensor of its own. `block_relearning` is the counterpart.

Source: after arXiv 2604.08271 (outputs forget while features stay).
"""

from __future__ import annotations

from functools import partial

from llm_unlearn.attacks.adversarial_reinjection import ATTACK as REINJECTION
from llm_unlearn.attacks.adversarial_reinjection import reinject
from llm_unlearn.attacks.attack import Attack

ATTACK = Attack(
    "head_relearning",
    summary="reinjection that tunes the output head alone",
    title="Head reinjection",
    label="head reinjection",
    on_card="{share} of the facts are taught again to the output head alone, the others are asked for",
    run=partial(reinject, part="head"),
    check=REINJECTION.check,
    rates="reinjection",
    taught=REINJECTION.taught,
    needs=("pool",),
)
