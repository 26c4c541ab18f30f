"""Entanglement of the rows to forget with those to keep: how far their embeddings stand apart, beside their spread.

Source: Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024, arXiv 2406.01257.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from llm_unlearn.errors import InputError


def entanglement_score(retain: ArrayLike, forget: ArrayLike) -> float:
    """ES = (mean_R |phi - mu_R|^2 + mean_S |phi - mu_S|^2) / (0.5 (|mu_R - mu|^2 + |mu_S - mu|^2)).

    mu_R and mu_S are the centroids of retain rows R and forget rows S, and mu = (mu_R + mu_S) / 2. Range 0 upward,
    higher = more entangled, harder to forget; scale and position of the embeddings do not matter.

    Args:
        retain, forget: embeddings, (rows, width).

    Raises:
        InputError: no rows, other shapes, values that are not finite, or centroids that are one, which leaves ES
            without a value.
    """
    retain, forget = _checked(retain, forget)
    (retain_centre, retain_spread), (forget_centre, forget_spread) = map(_moments, (retain, forget))
    return _score(retain_centre, retain_spread, forget_centre, forget_spread)


def entanglement_by_unit(retain: ArrayLike, forget: ArrayLike, units: Sequence[Hashable]) -> dict[Hashable, float]:
    """`entanglement_score` of the forget rows of each unit (a person's, say) alone, with all retain rows.

    Args:
        units: of each forget row.

    Raises:
        InputError: as there.
    """
    retain, forget = _checked(retain, forget)
    (retain_centre, retain_spread), found = _moments(retain), {}
    for unit in dict.fromkeys(units):
        rows = [number for number, one in enumerate(units) if one == unit]
        found[unit] = _score(retain_centre, retain_spread, *_moments(forget[rows]))
    return found


def centred_by_kind(
    retain: ArrayLike, forget: ArrayLike, retain_kinds: Sequence[Hashable], forget_kinds: Sequence[Hashable]
) -> tuple[np.ndarray, np.ndarray]:
    """Both embeddings without what they owe to the kind of question: each less the mean of its kind's retain rows.

    A state at the end of a question says first of all which question it is. Where forget rows ask the same questions
    about other people, that is no entanglement, and hides the one that there is.

    Raises:
        InputError: as `entanglement_score`; or forget rows are of a kind that no retain row is of.
    """
    retain, forget = _checked(retain, forget)
    means = {}
    for kind in dict.fromkeys(retain_kinds):
        means[kind] = retain[[number for number, one in enumerate(retain_kinds) if one == kind]].mean(0)
    if foreign := [kind for kind in forget_kinds if kind not in means]:
        raise InputError(
            f"forget rows are of kind {foreign[0]!r}, of which there is no retain row to center on; leave them out, or "
            "take the score without centering"
        )
    return (
        retain - np.stack([means[kind] for kind in retain_kinds]),
        forget - np.stack([means[kind] for kind in forget_kinds]),
    )


def separation(embeddings: ArrayLike, units: Sequence[Hashable]) -> float:
    """Variance between the centroids of units over that within units: how well embeddings tell units apart.

    Raises:
        InputError: fewer than two units, or no unit with two rows, or all rows of every unit are one point.
    """
    embeddings = _checked(embeddings, embeddings)[0]
    rows_of: dict[Hashable, list[int]] = {}
    for number, unit in enumerate(units):
        rows_of.setdefault(unit, []).append(number)
    centres = {unit: embeddings[rows].mean(0) for unit, rows in rows_of.items()}
    own = np.stack([centres[unit] for unit in units])
    within = float(np.square(embeddings - own).sum(1).mean())
    if len(rows_of) < 2 or within == 0:
        raise InputError(f"{len(rows_of)} units with {len(embeddings)} rows: too few to tell units from rows")
    return float(np.square(own - embeddings.mean(0)).sum(1).mean()) / within


def best_layer(states: Mapping[int, ArrayLike], units: Sequence[Hashable]) -> int:
    """The layer whose embeddings of retain rows tell units apart best (`separation`); the first of equals."""
    return max(states, key=lambda layer: separation(states[layer], units))


def _score(retain_centre: np.ndarray, retain_spread: float, forget_centre: np.ndarray, forget_spread: float) -> float:
    middle = (retain_centre + forget_centre) / 2
    apart = 0.5 * float(np.square(retain_centre - middle).sum() + np.square(forget_centre - middle).sum())
    if apart == 0:
        raise InputError("forget and retain rows have the same centroid, so their entanglement has no value")
    return (retain_spread + forget_spread) / apart


def _moments(embeddings: np.ndarray) -> tuple[np.ndarray, float]:
    """Centroid, and mean squared distance from it."""
    centre = embeddings.mean(0)
    return centre, float(np.square(embeddings - centre).sum(1).mean())


def _checked(retain: ArrayLike, forget: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    retain, forget = np.asarray(retain, np.float64), np.asarray(forget, np.float64)
    for name, rows in (("retain", retain), ("forget", forget)):
        if rows.ndim != 2 or not rows.size:
            raise InputError(f"{name} embeddings have shape {rows.shape}; give one row or more, as (rows, width)")
        if not np.isfinite(rows).all():
            raise InputError(f"{name} embeddings hold NaN or infinite values; look at the model's hidden states")
    if retain.shape[1] != forget.shape[1]:
        raise InputError(f"retain and forget embeddings have widths {retain.shape[1]} and {forget.shape[1]}; give one")
    return retain, forget
