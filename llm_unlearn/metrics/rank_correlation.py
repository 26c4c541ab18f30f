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
    value = spearman(first, second) if len(first) else None
    interval = None
    if value is not None and len(people) > 1:
        generator, count = np.random.default_rng(seed), len(people)
        drawn = generator.multinomial(count, np.full(count, 1 / count), resamples)[:, numbers]
        resampled = _weighted_spearman(first, second, drawn)
        resampled = resampled[np.isfinite(resampled)]  # else one person was drawn alone, with a constant score
        interval = percentile_interval(resampled, units=count) if len(resampled) else None
    return RankCorrelation(value, interval, len(first), len(people))


def _weighted_spearman(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`spearman` of rows that are there so many times, (resamples, rows) -> (resamples,); NaN where it has no value."""
    ranks = [_weighted_ranks(side, counts) for side in (first, second)]
    total = counts.sum(1)
    first_ranks, second_ranks = (side - ((side * counts).sum(1) / total)[:, None] for side in ranks)
    size = np.sqrt((counts * first_ranks**2).sum(1) * (counts * second_ranks**2).sum(1))
    product = (counts * first_ranks * second_ranks).sum(1)
    return np.divide(product, size, out=np.full(len(counts), np.nan), where=size > 1e-9)


def _weighted_ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean rank of each row among rows that are there so many times, (resamples, rows)."""
    ordered, groups = np.unique(values, return_inverse=True)
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=len(ordered)))
    up_to = np.cumsum(counts[:, order], axis=1)[:, ends - 1]  # rows up to each value, itself included
    below = np.concatenate([np.zeros_like(up_to[:, :1]), up_to[:, :-1]], axis=1)
    return ((below + up_to + 1) / 2)[:, groups]
