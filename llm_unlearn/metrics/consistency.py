"""Retrain consistency: are a model's hidden states where retraining without the forget rows would have put them?

At each layer the original's state of a row moves by d_r to the oracle's and by d_u to the tested model's; what is left
between the last two is e = d_u - d_r. All numbers are means over rows of |d_r|^2, |d_u|^2, |e|^2 and of cos(d_u, d_r):

- consistency = 1 - E|e|^2 / E|d_r|^2: 0 for the original itself, 1 for the oracle, below 0 for a model that went
  further away from the oracle than the original is. Noise as long as d_r gives -1.
- direction = E cos(d_u, d_r), and magnitude = sqrt(E|d_u|^2 / E|d_r|^2).
- asymmetry = E|e|^2 of retain rows / E|e|^2 of forget rows.
- concentration = share of |e|^2 in the few directions that d_r takes up most, over the share that random directions
  would have. These are found on one half of the people and counted on the other, since |e|^2 of rows that chose the
  directions would lie in them by construction. 1 for noise; more where what was to be moved is what is left.

Source: comparing with the retrained model in representation space is the idea of arXiv 2606.25001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from llm_unlearn.metrics.intervals import RESAMPLES, percentile_interval

TOP_DIRECTIONS = 8  # of d_r, in which what is left is looked for
RIDGE = 1e-3  # pull of an alignment towards no rotation, in mean squares of a coordinate


@dataclass(frozen=True)
class States:
    """Hidden states of one model; arrays of shape (layers, rows, width).

    Attributes:
        forget, retain: of the rows that are compared.
        neutral: of other rows, on which alignments are fitted.
    """

    forget: np.ndarray
    retain: np.ndarray
    neutral: np.ndarray


@dataclass(frozen=True)
class Displacements:
    """How far the rows are moved; arrays of shape (layers, rows).

    Attributes:
        retraining, change, residual: |d_r|^2, |d_u|^2 and |e|^2.
        cosine: cos(d_u, d_r); NaN where one of them is zero.
        inside: the part of |e|^2 in the top directions; NaN where there are no two people to find and count them on.
        directions: how many.
        width: of the hidden states.
    """

    retraining: np.ndarray
    change: np.ndarray
    residual: np.ndarray
    cosine: np.ndarray
    inside: np.ndarray
    directions: int
    width: int


def displacements(
    original: np.ndarray, oracle: np.ndarray, tested: np.ndarray, units: Sequence[int], top: int = TOP_DIRECTIONS
) -> Displacements:
    """Squared lengths and cosines of d_r, d_u and e.

    Args:
        original, oracle, tested: (layers, rows, width), the same rows.
        units: number, from 0, of the person of each row.
        top: directions; fewer where half of the people have fewer rows.
    """
    original, oracle, tested = (np.asarray(states, np.float64) for states in (original, oracle, tested))
    retraining, change, residual = oracle - original, tested - original, tested - oracle
    squares = [np.square(moves).sum(-1) for moves in (retraining, change, residual)]
    lengths = np.sqrt(squares[0] * squares[1])
    products = (retraining * change).sum(-1)
    cosine = np.divide(products, lengths, out=np.full_like(products, np.nan), where=lengths > 0)
    halves = _halves(units)
    top = min(top, original.shape[2], *(int(half.sum()) for half in halves))
    inside = np.full_like(products, np.nan)
    for fitted, counted in (halves, halves[::-1]) if top else ():
        _, _, directions = np.linalg.svd(retraining[:, fitted], full_matrices=False)  # (layers, directions, width)
        parts = residual[:, counted] @ directions[:, :top].swapaxes(1, 2)
        inside[:, counted] = np.square(parts).sum(-1)
    return Displacements(*squares, cosine, inside, top, original.shape[2])


def aligned(states: States, reference: States, ridge: float = RIDGE) -> States:
    """The states in the coordinates of another model, layer by layer: shifted and rotated (orthogonal Procrustes).

    The rotation R minimizes |X R - Y|^2 + ridge |R - 1|^2 over neutral rows X of `states` and Y of `reference`, both
    centered: where these rows say nothing, directions stay as they are, so that it takes no more rows than width.
    """
    turned: dict[str, list[np.ndarray]] = {"forget": [], "retain": [], "neutral": []}
    for layer in range(len(states.neutral)):
        rows, target = (np.asarray(one.neutral[layer], np.float64) for one in (states, reference))
        mean, target_mean = rows.mean(0), target.mean(0)
        rows, target = rows - mean, target - target_mean
        basis, _ = np.linalg.qr(np.concatenate([rows, target]).T)  # all that the rotation can turn
        seen = (rows @ basis).T @ (target @ basis)
        pull = ridge * np.square(target).sum() / target.shape[1]
        left, _, right = np.linalg.svd(seen + pull * np.eye(len(seen)))
        turn = left @ right - np.eye(len(seen))
        for name, parts in turned.items():
            centered = getattr(states, name)[layer] - mean
            parts.append(centered + centered @ basis @ turn @ basis.T + target_mean)
    return States(**{name: np.stack(parts) for name, parts in turned.items()})


def linear_cka(first: np.ndarray, second: np.ndarray) -> list[float | None]:
    """Linear centered kernel alignment of each layer, in [0, 1]; None where a model has the same state for all rows.

    Args:
        first, second: (layers, rows, width).
    """
    values = []
    for one, other in zip(first, second, strict=True):
        grams = [centered @ centered.T for centered in (_centered(one), _centered(other))]
        size = np.linalg.norm(grams[0]) * np.linalg.norm(grams[1])
        values.append(float((grams[0] * grams[1]).sum() / size) if size > 0 else None)
    return values


def resampled_means(values: np.ndarray, units: Sequence[int], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Means over rows, and the same of people drawn with replacement: (1 + resamples, layers), the plain means first.

    Args:
        values: (layers, rows); NaN is left out.
        units: number, from 0, of the person of each row. The same draws for the same people and `seed`, so that ratios
            of such means are those of the people drawn.
    """
    of_unit = np.eye(max(units) + 1)[np.asarray(units)]
    draws = _draws(of_unit.shape[1], resamples, seed)
    sums, counts = (draws @ (part @ of_unit).T for part in (np.nan_to_num(values), np.isfinite(values)))
    return _divided(sums, counts)


def compare(
    original: States, oracle: States, tested: States, forget_units: Sequence[int], retain_units: Sequence[int]
) -> dict[str, Any]:
    """All numbers of a tested model, as the states are and with oracle and tested model aligned to the original.

    Args:
        forget_units, retain_units: number, from 0, of the person of each row.

    Returns:
        `raw` and `aligned`: what `compared` returns; `cka`: `forget` and `retain`, the linear CKA of the tested model
        with the oracle by layer, to show beside them (it hardly falls where few directions differ).
    """
    turned = [aligned(states, original) for states in (oracle, tested)]
    return {
        "raw": compared(original, oracle, tested, forget_units, retain_units),
        "aligned": compared(original, *turned, forget_units, retain_units),
        "cka": {
            "forget": linear_cka(tested.forget, oracle.forget),
            "retain": linear_cka(tested.retain, oracle.retain),
        },
    }


def compared(
    original: States, oracle: States, tested: States, forget_units: Sequence[int], retain_units: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """The numbers of the module's docstring.

    Returns:
        `forget_consistency`, `retain_consistency`, `asymmetry`, `original_asymmetry` (of a model that did not move),
        `direction`, `magnitude` and `concentration` (these three of forget rows), each with `by_layer`; `value`, the
        mean over layers; and its 95 % `interval` over people, None where there are no two. None stands where a number
        is not defined, as what is left of nothing.
    """
    units = {"forget": forget_units, "retain": retain_units}
    moves = {
        name: displacements(getattr(original, name), getattr(oracle, name), getattr(tested, name), units[name])
        for name in units
    }

    def means(name: str, measured: str) -> np.ndarray:
        return resampled_means(getattr(moves[name], measured), units[name], seed=[*units].index(name))

    def ratio(above: tuple[str, str], below: tuple[str, str]) -> np.ndarray:
        return _divided(means(*above), means(*below))

    forget = moves["forget"]
    by_chance = forget.directions / forget.width
    found = {f"{name}_consistency": 1 - ratio((name, "residual"), (name, "retraining")) for name in units}
    found |= {
        "asymmetry": ratio(("retain", "residual"), ("forget", "residual")),
        "original_asymmetry": ratio(("retain", "retraining"), ("forget", "retraining")),
        "direction": means("forget", "cosine"),
        "magnitude": np.sqrt(ratio(("forget", "change"), ("forget", "retraining"))),
        "concentration": ratio(("forget", "inside"), ("forget", "residual")) / (by_chance or np.nan),
    }
    people = {name: len(set(units[name])) for name in units}
    of_both = min(people.values())
    counted = {"retain_consistency": people["retain"], "asymmetry": of_both, "original_asymmetry": of_both}
    return {name: _summary(values, counted.get(name, people["forget"])) for name, values in found.items()}


@lru_cache(maxsize=8)  # all numbers of a model meet the same people
def _draws(people: int, resamples: int, seed: int) -> np.ndarray:
    """How often each person is drawn: (1 + resamples, people), everybody once first."""
    drawn = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), resamples)
    return np.concatenate([np.ones((1, people)), drawn])


def _summary(drawn: np.ndarray, people: int) -> dict[str, Any]:
    """Of (1 + resamples, layers), the values themselves first."""
    defined = np.isfinite(drawn[0])
    if not defined.any():
        return {"by_layer": [None] * len(defined), "value": None, "interval": None}
    means = drawn[:, defined].mean(1)
    resampled = means[1:][np.isfinite(means[1:])]
    return {
        "by_layer": [float(value) if is_defined else None for value, is_defined in zip(drawn[0], defined, strict=True)],
        "value": float(means[0]),
        "interval": [*percentile_interval(resampled, units=people)] if people > 1 else None,
    }


def _halves(units: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the rows of every other person, and of the rest."""
    odd = np.unique(np.asarray(units), return_inverse=True)[1] % 2 == 1
    return odd, ~odd


def _centered(states: np.ndarray) -> np.ndarray:
    states = np.asarray(states, np.float64)
    return states - states.mean(0)


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below != 0)
