"""Scores as pure functions: numbers and records in, numbers out. No model, no torch, no file.

`evaluate_metric` wraps each of them for Hugging Face's `evaluate` library.
"""

from typing import TYPE_CHECKING

from llm_unlearn.metrics.exact_match import exact_match
from llm_unlearn.metrics.knowledge import knowledge, knowledge_wins
from llm_unlearn.metrics.leakage import leak_at_k
from llm_unlearn.metrics.logs import aggregate, recompute_summary
from llm_unlearn.metrics.membership import membership_auc, privleak
from llm_unlearn.metrics.membership_scores import (
    gradient_norm_score,
    loss_score,
    min_k_plus_plus_score,
    min_k_score,
    reference_score,
    zlib_score,
)
from llm_unlearn.metrics.memorization import exact_memorization, extraction_strength
from llm_unlearn.metrics.probability import probability, probability_with_options
from llm_unlearn.metrics.rouge import rouge_scores
from llm_unlearn.metrics.truth_ratio import forget_quality, forget_truth_ratio, truth_ratio, utility_truth_ratio
from llm_unlearn.metrics.utility import MODEL_UTILITY_PARTS, model_utility

if TYPE_CHECKING:
    from llm_unlearn.metrics.evaluate_metrics import EVALUATE_METRICS, evaluate_metric

__all__ = [
    "EVALUATE_METRICS",
    "MODEL_UTILITY_PARTS",
    "aggregate",
    "evaluate_metric",
    "exact_match",
    "exact_memorization",
    "extraction_strength",
    "forget_quality",
    "forget_truth_ratio",
    "gradient_norm_score",
    "knowledge",
    "knowledge_wins",
    "leak_at_k",
    "loss_score",
    "membership_auc",
    "min_k_plus_plus_score",
    "min_k_score",
    "model_utility",
    "privleak",
    "probability",
    "probability_with_options",
    "recompute_summary",
    "reference_score",
    "rouge_scores",
    "truth_ratio",
    "utility_truth_ratio",
    "zlib_score",
]


def __getattr__(name: str):
    # Loaded on first use: `evaluate` takes seconds to import.
    if name not in ("EVALUATE_METRICS", "evaluate_metric"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llm_unlearn.metrics import evaluate_metrics

    return getattr(evaluate_metrics, name)
