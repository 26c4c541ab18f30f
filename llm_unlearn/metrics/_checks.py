"""Input checks shared by the metrics: a bad value is named before it can turn into a plausible score."""

import math

import numpy as np
from numpy.typing import ArrayLike

from llm_unlearn.errors import InputError

# open-unlearning adds this to denominators; with another value the published scores are not reproduced.
EPSILON = 1e-10


def checked_numbers(
    name: str, values: ArrayLike, fix: str, minimum: float = -math.inf, maximum: float = math.inf
) -> np.ndarray:
    """`values` as a float64 array of any shape, not empty, every entry finite and in [minimum, maximum].

    Raises InputError that names the field, the first bad value with its position, and `fix`.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(f"{name} has rows of different lengths: {fix}") from None
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} must hold numbers, got {values!r:.80}: {fix}")
    if array.size == 0:
        raise InputError(f"{name} is empty: {fix}")
    array = array.astype(np.float64)
    good = np.isfinite(array) & (array >= minimum) & (array <= maximum)
    if not good.all():
        position = tuple(int(i) for i in np.argwhere(~good)[0])
        where = f" at index {', '.join(map(str, position))}" if position else ""
        bounds = "" if math.isinf(minimum) else f" and >= {minimum:g}"
        bounds += "" if math.isinf(maximum) else f" and <= {maximum:g}"
        raise InputError(f"{name} must be finite{bounds}, got {array[position]}{where}: {fix}")
    return array


def checked_number(name: str, value: float, fix: str, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """`checked_numbers`, for a single number."""
    array = checked_numbers(name, value, fix, minimum, maximum)
    if array.ndim != 0:
        raise InputError(f"{name} must be a single number, got {value!r:.80}: {fix}")
    return float(array)


def checked_samples(name: str, values: ArrayLike, fix: str, minimum: float = -math.inf) -> np.ndarray:
    """`checked_numbers`, for a one-dimensional sample of any length >= 1."""
    array = checked_numbers(name, values, fix, minimum)
    if array.ndim != 1:
        raise InputError(f"{name} must be one-dimensional, one value per row, got shape {array.shape}: {fix}")
    return array


def check_alternatives(name: str, alternatives: np.ndarray, correct_name: str, correct: np.ndarray) -> None:
    """Raise InputError unless `alternatives` has the rows of `correct` plus one last axis over alternatives."""
    if alternatives.ndim == 0 or alternatives.shape[:-1] != correct.shape:
        raise InputError(
            f"{name} has shape {alternatives.shape} but {correct_name} has shape {correct.shape}: pass the same rows "
            f"for both, {name} with one more axis that runs over the alternatives"
        )


def checked_text(name: str, value: str, fix: str) -> str:
    """`value` itself if it is a string. Raises InputError otherwise."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string, got {value!r:.80}: {fix}")
    return value
