"""What was attacked is what was scored: every recovery curve begins at the model's own score.

An attack trains a copy of the model, with an adapter merged and 16-bit weights in 32. Where the copy said something
else than the model, its curve would be another model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from transformers import PreTrainedModel

from llm_unlearn.errors import InputError
from llm_unlearn.models.precision import HALVES, computing_dtype, stored_dtype

NOTHING = 1e-6  # difference in probability that is none


class Tolerance(NamedTuple):
    """How far two mean probabilities may lie apart and still be one: both by difference and by factor."""

    difference: float
    factor: float


# Measured on models of four families, untrained to well trained, with and without adapters, whose logits are large for
# their size: factors of up to 1.00004 in float32, of 1.7 in 16 bits, where probabilities differ by up to 0.03.
EXACT = Tolerance(1e-2, 1.01)
ROUNDED = Tolerance(0.1, 4.0)


def check_starts(
    name: str,
    own: Mapping[str, Mapping],
    attacks: Mapping[str, Mapping],
    load: Callable[[], PreTrainedModel],
) -> None:
    """Compare step 0 of every run of every attack with the model's own scores on the same rows.

    Args:
        name: what the model is called.
        own: of each forget row, by its number as text: {"prob": its answer's probability} (`forget_Q_A_Prob`).
        attacks: attack, or counterfactual control -> its outcome; those that train nothing have no runs.
        load: gives the model, where its type decides.

    Raises:
        InputError: the two means differ by more than rounding.
    """
    probabilities = {row: values["prob"] for row, values in own.items()}
    for attack, outcome in attacks.items():
        for run, known in _runs(outcome, probabilities):
            scored = [known[row] for row in run["value_by_index"]]
            expected, start = sum(scored) / len(scored), run["curve"][0]["forget_probability"]
            if is_same(start, expected, EXACT) or is_same(start, expected, tolerance_of(load())):
                continue
            allowed = words(tolerance_of(load()))
            raise InputError(
                f"{name}: {attack} begins at a forget probability of {start:.3g} and the model itself scores "
                f"{expected:.3g}, so what was attacked is not what was scored (allowed: {allowed}); "
                "remove the outcomes in attacks/ if they are an earlier version's, else judge the merged model"
            )


def _runs(outcome: Mapping, own: Mapping[str, float]) -> Iterator[tuple[Mapping, Mapping[str, float]]]:
    """Every run of an attack, or of both sides of the control, and the model's own scores of what the run scores."""
    for run in outcome.get("runs", ()):
        yield run, own
    sides = [outcome["true"], *outcome["counterfactual"].values()] if "counterfactual" in outcome else []
    for side in sides:
        before = {row: values["probability"] for row, values in side["before_by_index"].items()}
        for run in side["runs"]:
            yield run, before


def is_same(found: float, expected: float, tolerance: Tolerance) -> bool:
    """Whether two mean probabilities are one but for rounding."""
    low, high = sorted((found, expected))
    return high - low <= NOTHING or (high - low <= tolerance.difference and high <= tolerance.factor * low)


def tolerance_of(model: PreTrainedModel) -> Tolerance:
    """What rounding may do between a model and its attackable copy, which has its weights in float32."""
    is_exact = {stored_dtype(model), computing_dtype(model)}.isdisjoint(HALVES)
    return EXACT if is_exact and not getattr(model, "is_quantized", False) else ROUNDED


def words(tolerance: Tolerance) -> str:
    """What errors say of a tolerance."""
    return f"a factor of {tolerance.factor:g} and a difference of {tolerance.difference:g}"
