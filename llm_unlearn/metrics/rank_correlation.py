"""Spearman's rank correlation of two scores of the same rows, with an interval over people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from llm_unlearn.metrics.intervals import percentile_interval

RESAMPLES = 1999


class RankCorrelation(NamedTuple):
    """Spearman's correlation; `interval` holds 95 % of resampled people, None where there are no two."""

    value: float | None
    interval: tuple[float, float] | None
    rows: int
    people: int


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Pearson's correlation of the ranks, equal values sharing the mean of theirs; None where a side is constant."""
    ranks = [rankdata(side) - (np.size(side) + 1) / 2 for side in (first, second)]
    size = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / size) if size > 0 else None


def rank_correlation(
    first: ArrayLike, second: ArrayLike, units: Sequence[int], resamples: int = RESAMPLES, seed: int = 0
) -> RankCorrelation:
    """Spearman's correlation over rows, and its interval by drawing people, each with all of their rows.

    Args:
        first, second: scores, (rows,); rows where either is NaN are left out.
        units: number of the person of each row.

    Raises:
        ValueError: the sides have other numbers of rows.
    """
    first, second, units = np.asarray(first, float), np.asarray(second, float), np.asarray(units)
    if not first.shape == second.shape == units.shape or first.ndim != 1:
        raise ValueError(
            f"scores of shapes {first.shape} and {second.shape} with {units.shape} units; give one of each"
        )
    has_both = np.isfinite(first) & np.isfinite(second)
    first, second = first[has_both], second[has_both]
    people, numbers = np.unique(units[has_both], return_inverse=True)
    rows_of = [np.flatnonzero(numbers == number) for number in range(len(people))]
    value = spearman(first, second) if len(first) else None
    interval = None
    if value is not None and len(people) > 1:
        generator, resampled = np.random.default_rng(seed), []
        for _ in range(resamples):
            rows = np.concatenate([rows_of[i] for i in generator.integers(len(people), size=len(people))])
            one = spearman(first[rows], second[rows])  # None where one person was drawn alone, with a constant score
            resampled += [] if one is None else [one]
        interval = percentile_interval(np.array(resampled), units=len(people)) if resampled else None
    return RankCorrelation(value, interval, len(first), len(people))
