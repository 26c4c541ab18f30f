"""Exact memorization, confidence and the divergence of two models, by values worked by hand."""

import math

import numpy as np
import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.planning.memorization import (
    confidence_over_training,
    memorization_by_subsets,
    symmetric_divergence,
)


def test_the_estimator_by_hand():
    # row 0: (0.9 + 0.7) / 2 - (0.2 + 0.4) / 2 = 0.5; both variances 0.02, so sqrt(0.02 / 2 + 0.02 / 2)
    # row 1: 1.0 - (0.1 + 0.2 + 0.6) / 3 = 0.7, and one training says nothing of its spread
    scores = [[0.9, 0.1], [0.7, 0.2], [0.2, 1.0], [0.4, 0.6]]
    included = [[True, False], [True, False], [False, True], [False, False]]
    found = memorization_by_subsets(scores, included)
    assert found.values == pytest.approx([0.5, 0.7])
    assert found.errors[0] == pytest.approx(math.sqrt(0.02)) and math.isnan(found.errors[1])


def test_unequal_sides_have_errors_of_their_own():
    # with: 0.5, 0.7, 0.9, of variance 0.04 over 3; without: 0.1, 0.3, of variance 0.02 over 2
    found = memorization_by_subsets([[0.5], [0.7], [0.9], [0.1], [0.3]], [[True]] * 3 + [[False]] * 2)
    assert found.values == pytest.approx([0.5])
    assert found.errors == pytest.approx([math.sqrt(0.04 / 3 + 0.02 / 2)])


def test_errors_are_those_of_drawing_trainings_again():
    """Of 4,000 times 6 trainings: their memorizations spread as their errors say."""
    draw, included = np.random.default_rng(0), np.array([[True]] * 3 + [[False]] * 3).repeat(4000, 1)
    scores = draw.normal(0.4, 0.1, included.shape) + included * draw.normal(0.3, 0.05, included.shape)
    found = memorization_by_subsets(scores, included)
    spread = math.sqrt((0.1**2 + 0.05**2) / 3 + 0.1**2 / 3)
    assert found.values.mean() == pytest.approx(0.3, abs=0.005)
    assert found.values.std() == pytest.approx(spread, rel=0.03)
    assert math.sqrt((found.errors**2).mean()) == pytest.approx(spread, rel=0.03)


def test_subsets_that_say_nothing_are_refused():
    with pytest.raises(InputError, match="row 1 is in no subset"):
        memorization_by_subsets([[0.5, 0.5], [0.5, 0.5]], [[True, False], [False, False]])
    with pytest.raises(InputError, match="row 0 is in every subset"):
        memorization_by_subsets([[0.5], [0.5]], [[True], [True]])
    with pytest.raises(InputError, match=r"shape \(1, 2\), subsets \(2, 1\)"):
        memorization_by_subsets([[0.5, 0.5]], [[True], [False]])


def test_confidence_is_the_mean_over_checkpoints():
    assert confidence_over_training([[0.0, 0.5], [0.25, 1.0], [1.0, 1.0]]) == pytest.approx([1.25 / 3, 2.5 / 3])
    with pytest.raises(InputError, match="probabilities of checkpoints must lie between 0 and 1"):
        confidence_over_training([[1.5]])
    with pytest.raises(InputError, match=r"shape \(2,\)"):
        confidence_over_training([0.5, 0.5])


def test_divergence_by_hand():
    # (0.5 - 0.25) log 2 + (0.5 - 0.75) log(2 / 3) = 0.25 log 3
    first, second = np.log([[0.5, 0.5], [0.2, 0.8]]), np.log([[0.25, 0.75], [0.2, 0.8]])
    assert symmetric_divergence(first, second) == pytest.approx([0.25 * math.log(3), 0])
    assert symmetric_divergence(second, first) == pytest.approx([0.25 * math.log(3), 0])
    with pytest.raises(InputError, match="give the same positions"):
        symmetric_divergence(first, second[:1])
    with pytest.raises(InputError, match="not finite"):
        symmetric_divergence([[-math.inf, 0.0]], [[0.0, -math.inf]])
