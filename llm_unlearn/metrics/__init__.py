"""Scores as pure functions: numbers and records in, numbers out. No model, no torch, no file."""

from llm_unlearn.metrics.exact_match import exact_match
from llm_unlearn.metrics.logs import aggregate, recompute_summary
from llm_unlearn.metrics.membership import membership_auc, privleak
from llm_unlearn.metrics.probability import probability, probability_with_options
from llm_unlearn.metrics.rouge import rouge_scores
from llm_unlearn.metrics.truth_ratio import forget_quality, forget_truth_ratio, truth_ratio, utility_truth_ratio
from llm_unlearn.metrics.utility import MODEL_UTILITY_PARTS, model_utility

__all__ = [
    "MODEL_UTILITY_PARTS",
    "aggregate",
    "exact_match",
    "forget_quality",
    "forget_truth_ratio",
    "membership_auc",
    "model_utility",
    "privleak",
    "probability",
    "probability_with_options",
    "recompute_summary",
    "rouge_scores",
    "truth_ratio",
    "utility_truth_ratio",
]
