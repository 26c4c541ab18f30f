"""How well rows are memorized: exactly, by training without them, and by proxies that train less or nothing.

Memorization proper is the score of a row by models trained with it less that by models trained without it (Feldman
2020, arXiv 1906.05271); `memorization_by_subsets` estimates it from trainings on subsets (Feldman and Zhang 2020, arXiv
2008.03703). Proxies take another model for the one without the row (a base or an oracle), or guesses, or how early the
row was learned, or how much of it goes when something else is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from llm_unlearn.errors import InputError


class Memorization(NamedTuple):
    """mem of each row (or person) and its standard error over trainings, both (rows,); NaN where it has none."""

    values: np.ndarray
    errors: np.ndarray


def memorization_by_subsets(scores: ArrayLike, included: ArrayLike) -> Memorization:
    """mem(i) = mean score of row i by trainings whose subset has it - mean score by those whose subset has it not.

    The standard error is that of a difference of two means, sqrt(v_in / n_in + v_out / n_out), each v the sample
    variance (over n - 1) of its side; it has none where a side has one training.

    Args:
        scores: (trainings, rows); of people, the mean over their rows in each training, so that errors are of people.
        included: (trainings, rows), whether the subset of that training has the row.

    Raises:
        InputError: other shapes, or a row that every subset has or none.
    """
    scores, included = np.asarray(scores, np.float64), np.asarray(included, bool)
    if scores.ndim != 2 or scores.shape != included.shape:
        raise InputError(f"scores have shape {scores.shape}, subsets {included.shape}; give (trainings, rows) of both")
    means, variances = [], []
    for side in (included, ~included):
        counts = side.sum(0)
        if not counts.all():
            row = int(np.flatnonzero(counts == 0)[0])
            raise InputError(f"row {row} is in {'no' if side is included else 'every'} subset; train on more of them")
        mean = (scores * side).sum(0) / counts
        squares = (np.square(scores - mean) * side).sum(0)
        means.append(mean)
        variances.append(np.divide(squares, (counts - 1) * counts, out=np.full_like(mean, np.nan), where=counts > 1))
    return Memorization(means[0] - means[1], np.sqrt(variances[0] + variances[1]))


def confidence_over_training(probabilities: ArrayLike) -> np.ndarray:
    """Mean answer probability of each row over checkpoints of its training, (rows,): higher = learned earlier.

    What is learned early shares something with other rows, so *low* confidence passes for memorization.

    Args:
        probabilities: (checkpoints, rows), each in [0, 1].

    Raises:
        InputError: another shape, no checkpoint, or a value outside [0, 1].
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or not len(probabilities):
        raise InputError(f"probabilities have shape {probabilities.shape}; give (checkpoints, rows)")
    _check_probabilities("checkpoints", probabilities)
    return probabilities.mean(0)


def symmetric_divergence(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """KL(first | second) + KL(second | first) at each position, in nats: (positions,), 0 for equal distributions.

    Between a model and the same one trained further on held-out rows, this is the held-out retraining proxy (Carlini
    et al. 2019, arXiv 1910.13427): what goes when something else is learned was memorized.

    Args:
        first, second: log-probabilities over the vocabulary, (positions, vocabulary).

    Raises:
        InputError: other shapes, or values that are not finite.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or first.shape != second.shape:
        raise InputError(f"log-probabilities have shapes {first.shape} and {second.shape}; give the same positions")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("log-probabilities are not finite; take them from a log-softmax")
    return ((np.exp(first) - np.exp(second)) * (first - second)).sum(1)


def memorization_gain(original: ArrayLike, base: ArrayLike) -> np.ndarray:
    """p_original - p_base of each row, (rows,): in [-1, 1], higher = more memorized.

    Args:
        original, base: answer probabilities of the rows, (rows,), each in [0, 1]. The base is the model before it was
            taught, or an oracle: with that, this is the memorization of a row together with all others to forget.

    Raises:
        InputError: other shapes, or a value outside [0, 1].
    """
    original, base = np.asarray(original, np.float64), np.asarray(base, np.float64)
    if original.ndim != 1 or original.shape != base.shape:
        raise InputError(f"probabilities have shapes {original.shape} and {base.shape}; give the same rows of both")
    for name, values in (("original", original), ("base", base)):
        _check_probabilities(name, values)
    return original - base


def knowledge_margin(true: Sequence[float], made_up: Sequence[Sequence[float]]) -> list[float | None]:
    """p(true answer) - mean p(made-up answers) of each row: in [-1, 1], about 0 for whoever only knows the kind.

    Args:
        true: of each row the probability of its answer.
        made_up: of each row those of answers of the same kind; a row without any has no margin (None).

    Raises:
        InputError: other numbers of rows, or a value outside [0, 1].
    """
    if len(true) != len(made_up):
        raise InputError(f"{len(true)} true answers and {len(made_up)} lists of made-up ones; give one list for each")
    _check_probabilities("true answers", np.asarray(true, np.float64))
    for values in made_up:
        _check_probabilities("made-up answers", np.asarray(values, np.float64))
    return [own - fmean(others) if others else None for own, others in zip(true, made_up, strict=True)]


def _check_probabilities(name: str, values: np.ndarray) -> None:
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"probabilities of {name} must lie between 0 and 1; give exp(-nll / length)")
