"""Intervals of a mean, and of the difference between two models, over people, models and attack seeds at once.

Source: the bootstrap with independent weights for each crossed factor (Owen and Eckles 2012, arXiv 1106.2125): every
person is drawn as a whole, and so is every model (unlearning seed, oracle seed) and every attack seed. With few people,
seeds or oracles it can only show the spread that is there; a factor with one member adds none.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.stats import norm, t

RESAMPLES = 4999


def resampled_difference(
    first: np.ndarray, second: np.ndarray | None, units: Sequence[int], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, np.ndarray]:
    """The mean of `first` minus the mean of `second`, and the same of resampled data.

    Both sides meet the same people and the same attack seeds, so these are drawn for both at once.

    Args:
        first: (models, attack seeds, rows); NaN where an attack did not score a row.
        second: likewise, with other models and the same attack seeds and rows; None: the mean of `first` alone.
        units: number, from 0, of what is drawn as a whole (the person) of each row.

    Returns:
        The difference, and (resamples,) differences; fewer where nothing scored was drawn.

    Raises:
        ValueError: the sides have other attack seeds or rows, or nothing was scored.
    """
    units = np.asarray(units)
    sides = [np.asarray(side, float) for side in (first, second) if side is not None]
    if any(side.shape[1:] != sides[0].shape[1:] for side in sides) or sides[0].shape[2] != len(units):
        shapes = " and ".join(str(side.shape) for side in sides)
        raise ValueError(f"values of shape {shapes} with {len(units)} units: attack seeds and rows must be the same")
    if not all(np.isfinite(side).any() for side in sides):
        raise ValueError("no row was scored, so there is no mean")
    of_unit = np.eye(units.max() + 1)[units]
    of_seeds, of_people, generator = _draws(sides[0].shape[1], of_unit.shape[1], resamples, seed)
    generator = copy.deepcopy(generator)
    means = []
    for side in sides:
        of_models = _drawn(generator, side.shape[0], resamples)
        sums, counts = (
            np.einsum("rm,rs,ru,msu->r", of_models, of_seeds, of_people, part @ of_unit, optimize=True)
            for part in (np.nan_to_num(side), np.isfinite(side))
        )
        means.append(np.divide(sums, counts, out=np.full(resamples, np.nan), where=counts > 0))
    points = [float(np.nanmean(side)) for side in sides]
    differences = means[0] - means[1] if len(sides) == 2 else means[0]
    return points[0] - sum(points[1:]), differences[np.isfinite(differences)]


@lru_cache(maxsize=8)  # a verdict has dozens of comparisons of the same people, and the draws are most of the work
def _draws(seeds: int, people: int, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """How often every attack seed and every person is drawn, and the generator for all further draws."""
    generator = np.random.default_rng(seed)
    return _drawn(generator, seeds, resamples), _drawn(generator, people, resamples), generator


def _drawn(generator: np.random.Generator, size: int, resamples: int) -> np.ndarray:
    return generator.multinomial(size, np.full(size, 1 / size), resamples).astype(float)


def percentile_interval(resampled: np.ndarray, level: float = 0.95, units: int | None = None) -> tuple[float, float]:
    """The central `level` of resampled values.

    Args:
        units: how many were drawn from (people), where they are few: the interval is then about as wide as Student's.
            Of normal values of six people, 93 % of the intervals hold the mean, 87 % without it. Source: the expanded
            percentile interval of Hesterberg 2015, arXiv 1411.5279, section 4.3.
    """
    tail = (1 - level) / 2
    if units is not None and units > 1:
        tail = float(norm.cdf(-np.sqrt(units / (units - 1)) * t.ppf(1 - tail, units - 1)))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)
