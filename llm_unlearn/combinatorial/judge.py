"""Measures networks against the original that they come from, and sums up over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from scipy.stats import binom

from llm_unlearn.combinatorial.formulas import Mixture, draw_rows, generators
from llm_unlearn.combinatorial.network import Network, true_positive_rate
from llm_unlearn.combinatorial.read_off import (
    codes,
    keep,
    mean_weights,
    null_strengths,
    pattern_correlation,
    published_codes,
    strengths,
)
from llm_unlearn.combinatorial.subject import Subject

TARGET = 0  # the target is the first clause
JUDGED_ROWS = 256


class Judge:
    """Measures networks against the original they come from."""

    def __init__(self, subject: Subject):
        self.subject = subject
        task, seeds = subject.task, subject.seeds
        self.codes = codes(subject.original, task.clauses)
        self.published_codes = published_codes(subject.original, task.clauses)
        purposes = [(task.only(clause), f"judged clause {clause}") for clause in range(task.clauses.shape[1])]
        self.clause_rows = [
            draw_rows(task, mixture, JUDGED_ROWS, generators(seeds, purpose)).inputs for mixture, purpose in purposes
        ]
        negatives = Mixture(*task.all[:3], positives=0.0)
        self.negatives = draw_rows(task, negatives, JUDGED_ROWS, generators(seeds, "judged negatives")).inputs

    def measure(self, network: Network) -> dict[str, list[float]]:
        """Measurement -> a value for each seed."""
        clauses = self.subject.task.clauses
        rates = torch.stack([true_positive_rate(network, rows) for rows in self.clause_rows], dim=1)
        strength, null = strengths(network, clauses), null_strengths(network, clauses.shape[2], self.subject.seeds)
        found = codes(network, clauses)
        kept = keep(found.mT, self.codes.mT)
        kept_as_published = keep(published_codes(network, clauses).mT, self.published_codes.mT)
        others = torch.arange(clauses.shape[1]) != TARGET
        supporting, opposing = mean_weights(network, clauses)
        measured = {
            "target_true_positive_rate": rates[:, TARGET],
            "other_true_positive_rate": rates[:, others].mean(1),
            "true_negative_rate": 1 - true_positive_rate(network, self.negatives),
            "code_size": found[..., TARGET].sum(1),
            "keep": kept[:, TARGET],
            "published_keep": kept_as_published[:, TARGET],
            "other_keep": kept[:, others].nanmean(1),
            "strength": strength[:, TARGET],
            "other_strength": strength[:, others].mean(1),
            "null": null,
            "pattern": pattern_correlation(self.subject.original, network, clauses)[:, TARGET],
            "supporting_weight": supporting[:, TARGET],
            "opposing_weight": opposing[:, TARGET],
            "strength_over_null": torch.where(null > 0, strength[:, TARGET] / null, torch.nan),
        }
        return {what: values.tolist() for what, values in measured.items()}


def summary(values: Sequence[float], seeds: Sequence[int]) -> dict[str, Any]:
    """Median and interval over seeds, in the format of all records.

    The interval is between order statistics and covers the median of the population with at least 95 %, whatever the
    distribution; with fewer than six seeds there is none, and the range takes its place.

    Args:
        values: one for each seed; infinity: not within the steps allowed, NaN: not defined, and left out.
    """
    ordered = sorted(value for value in values if not math.isnan(value))
    rank = max(1, int(binom.ppf(0.025, len(ordered), 0.5))) if ordered else None
    return {
        "agg_value": _finite(median(ordered)) if ordered else None,
        "interval": [_finite(ordered[rank - 1]), _finite(ordered[-rank])] if ordered else [None, None],
        "value_by_index": {str(seed): _finite(value) for seed, value in zip(seeds, values, strict=True)},
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
