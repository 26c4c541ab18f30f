"""Retrain consistency: the identities that its definition promises, and small cases worked by hand."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from llm_unlearn.metrics.consistency import States, aligned, compare, compared, displacements, linear_cka

LAYERS, PEOPLE, ROWS_EACH, WIDTH = 2, 20, 4, 32
UNITS = [person for person in range(PEOPLE) for _ in range(ROWS_EACH)]


def drawn(seed: int, size: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, (LAYERS, len(UNITS), WIDTH))


def moved(states: States, *moves: np.ndarray) -> States:
    return States(
        *(part + move for part, move in zip((states.forget, states.retain, states.neutral), moves, strict=True))
    )


ORIGINAL = States(drawn(0), drawn(1), drawn(2))
LOW_RANK = drawn(3)[..., :3] @ drawn(4)[:, :3]  # what retraining changes lies in three directions
ORACLE = moved(ORIGINAL, LOW_RANK, drawn(5, 0.1), drawn(6, 0.1))


def numbers(tested: States) -> dict[str, float]:
    return {name: found["value"] for name, found in compare(ORIGINAL, ORACLE, tested, UNITS, UNITS)["raw"].items()}


def test_the_original_has_consistency_zero():
    found = numbers(ORIGINAL)
    assert found["forget_consistency"] == pytest.approx(0, abs=1e-6)
    assert found["retain_consistency"] == pytest.approx(0, abs=1e-6)
    assert found["magnitude"] == 0 and found["direction"] is None
    assert found["asymmetry"] == pytest.approx(found["original_asymmetry"])
    assert found["concentration"] == pytest.approx(WIDTH / 8)  # all that is left is what retraining would have moved


def test_the_oracle_has_consistency_one():
    found = numbers(ORACLE)
    for name in ("forget_consistency", "retain_consistency", "direction", "magnitude"):
        assert found[name] == pytest.approx(1, abs=1e-6)
    assert found["asymmetry"] is None and found["concentration"] is None  # nothing is left


def test_half_of_the_way_is_three_quarters():
    halfway = States(*((a + b) / 2 for a, b in zip(vars(ORIGINAL).values(), vars(ORACLE).values(), strict=True)))
    found = numbers(halfway)
    assert found["forget_consistency"] == pytest.approx(0.75, abs=1e-6)
    assert found["direction"] == pytest.approx(1, abs=1e-6) and found["magnitude"] == pytest.approx(0.5, abs=1e-6)


def test_noise_of_the_same_length_is_not_consistent():
    noise = drawn(7)
    noise *= np.linalg.norm(LOW_RANK, axis=-1, keepdims=True) / np.linalg.norm(noise, axis=-1, keepdims=True)
    found = numbers(moved(ORIGINAL, noise, 0, 0))
    assert found["direction"] == pytest.approx(0, abs=0.05)
    assert found["forget_consistency"] == pytest.approx(-1, abs=0.1)
    assert found["magnitude"] == pytest.approx(1, abs=1e-6)
    beside = numbers(moved(ORACLE, noise, 0, 0))  # what is left is the noise alone
    # Of these retraining takes up five directions; which other three count, the processor's rounding decides.
    assert beside["concentration"] == pytest.approx(1, abs=0.25)


def test_values_worked_by_hand():
    """One layer, two people with a row each: d_r = (2, 0) and (0, 4), d_u = (1, 1) and (0, -4)."""
    original = np.zeros((1, 2, 2))
    oracle = np.array([[[2.0, 0], [0, 4]]])
    tested = np.array([[[1.0, 1], [0, -4]]])
    found = displacements(original, oracle, tested, [0, 1])
    assert found.retraining.tolist() == [[4, 16]] and found.change.tolist() == [[2, 16]]
    assert found.residual.tolist() == [[2, 64]]
    assert found.cosine.tolist() == [pytest.approx([0.5**0.5, -1])]
    # One direction each: (0, 1) of the second for the first, whose e is (-1, 1); (1, 0) of the first for the second.
    assert found.directions == 1 and found.inside.tolist() == [pytest.approx([1, 0])]
    retain = np.array([[[3.0, 0]]])
    states = [
        States(forget, part, forget)
        for forget, part in ((original, 0 * retain), (oracle, retain), (tested, retain / 3))
    ]
    summary = compared(*states, [0, 1], [0])
    assert summary["forget_consistency"]["value"] == pytest.approx(1 - 66 / 20)
    assert summary["retain_consistency"] == {
        "by_layer": [pytest.approx(1 - 4 / 9)],
        "value": pytest.approx(1 - 4 / 9),
        "interval": None,
    }
    assert summary["asymmetry"]["value"] == pytest.approx(4 / 33)
    assert summary["original_asymmetry"]["value"] == pytest.approx(9 / 10)
    assert summary["direction"]["value"] == pytest.approx((0.5**0.5 - 1) / 2)
    assert summary["magnitude"]["value"] == pytest.approx((18 / 20) ** 0.5)
    assert summary["concentration"]["value"] == pytest.approx(1 / 66 / (1 / 2))
    low, high = summary["forget_consistency"]["interval"]
    assert (low, high) == pytest.approx((1 - 64 / 16, 1 - 2 / 4))  # either person alone


def test_rotated_and_shifted_coordinates_are_aligned_away():
    turn = ortho_group.rvs(WIDTH, random_state=0)
    turned = States(*(part @ turn + 3 for part in vars(ORACLE).values()))
    found = compare(ORIGINAL, ORACLE, turned, UNITS, UNITS)
    assert found["raw"]["forget_consistency"]["value"] < -1
    assert found["aligned"]["forget_consistency"]["value"] > 0.99
    assert found["cka"]["forget"] == pytest.approx([1, 1])  # which does not see rotations at all
    exact = aligned(turned, ORACLE, ridge=0)
    assert np.allclose(exact.forget, ORACLE.forget) and np.allclose(exact.neutral, ORACLE.neutral)


def test_alignment_leaves_alone_what_the_neutral_rows_do_not_show():
    few = States(ORIGINAL.forget, ORIGINAL.retain, ORIGINAL.neutral[:, :5])
    same = aligned(few, few)
    assert np.allclose(same.forget, few.forget, atol=1e-12)
    neutral = np.zeros((1, 2, 4))
    neutral[0, :, 0] = (1, -1)
    swapped = np.roll(neutral, 1, axis=2)  # along the second axis in place of the first
    states = np.eye(4)[None]
    turned = aligned(States(states, states, neutral), States(states, states, swapped)).forget[0]
    assert turned[0] == pytest.approx([0, 1, 0, 0], abs=1e-3)
    assert turned[2:].tolist() == np.eye(4)[2:].tolist()


def test_cka_of_unlike_states_is_low():
    assert linear_cka(ORIGINAL.forget, 2 * ORIGINAL.forget) == pytest.approx([1, 1])
    # Rows on one axis against rows on another: (1, -1, 0, 0) and (0, 0, 1, -1) have no common part.
    first, second = np.array([[[1.0], [-1], [0], [0]]]), np.array([[[0.0], [0], [1], [-1]]])
    assert linear_cka(first, second) == [0]
    assert linear_cka(first, 0 * second) == [None]
