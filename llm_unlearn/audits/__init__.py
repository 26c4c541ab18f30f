"""Audits: what is left inside a model, whatever it says."""

from llm_unlearn.audits.influence import (
    SCORES,
    ModelInfluence,
    NeuronInfluence,
    attribution_correlation,
    compare_influence,
    hiding_share,
    influence_variation,
    neuron_influence,
    summarize_influence,
)
from llm_unlearn.audits.logit_lens import LensPair, lens_pairs, logit_lens

__all__ = [
    "SCORES",
    "LensPair",
    "ModelInfluence",
    "NeuronInfluence",
    "attribution_correlation",
    "compare_influence",
    "hiding_share",
    "influence_variation",
    "lens_pairs",
    "logit_lens",
    "neuron_influence",
    "summarize_influence",
]
