"""Memorization without retraining: what a model gives the true answer, less what one gives it that never saw the row.

Memorization proper is the score of a row by models trained with it less that by models trained without it (Feldman
2020). These proxies need no training: the model without the row is another one (a base or an oracle), or a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike

from llm_unlearn.errors import InputError


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
