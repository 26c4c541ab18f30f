import math

import numpy as np
import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import forget_quality, forget_truth_ratio, truth_ratio, utility_truth_ratio


def test_truth_ratio_takes_the_geometric_mean_of_the_perturbed_probabilities():
    # Perturbed probabilities 1/2 and 1/8 have the geometric mean 1/4 (the arithmetic one is 5/16); correct is 1/2.
    assert truth_ratio(math.log(2), [math.log(2), math.log(8)]) == pytest.approx(0.5, rel=1e-9)


def test_truth_ratio_is_one_where_the_answer_equals_the_perturbation():
    assert truth_ratio(1.7, [1.7]) == pytest.approx(1, rel=1e-9)


def test_truth_ratio_of_an_impossible_answer_is_bounded_by_the_epsilon():
    assert truth_ratio(1000.0, [0.0]) == pytest.approx(1e10, rel=1e-15)


def test_truth_ratio_of_rows():
    losses = [[math.log(2), math.log(8)], [math.log(3), math.log(3)]]
    np.testing.assert_allclose(truth_ratio([math.log(2), 0.0], losses), [1 / 2, 1 / 3], rtol=1e-9)


@pytest.mark.parametrize(
    ("correct", "perturbed", "message"),
    [
        (float("nan"), [1.0], "correct_losses must be finite"),
        (1.0, [1.0, float("nan")], "perturbed_losses must be finite.*got nan at index 1"),
        (-1.0, [1.0], r"correct_losses must be.*got -1\.0.*average negative log-likelihoods"),
        ([1.0, 2.0], [[1.0]], r"perturbed_losses has shape \(1, 1\) but correct_losses has shape \(2,\)"),
        ([1.0, 2.0], [[1.0, 2.0], [1.0]], "perturbed_losses has rows of different lengths"),
        (1.0, [], "perturbed_losses is empty"),
    ],
)
def test_truth_ratio_rejects(correct, perturbed, message):
    with pytest.raises(InputError, match=message):
        truth_ratio(correct, perturbed)


def test_forget_truth_ratio_folds_ratios_over_one():
    # 1/2, 1/4, 1 and 0 contribute themselves, 4 contributes 1/4: 2 / 5.
    assert forget_truth_ratio([0.5, 0.25, 1.0, 0.0, 4.0]) == pytest.approx(0.4, rel=1e-9)


def test_utility_truth_ratio_clips_ratios_over_one_at_zero():
    # 0.5 + 0.75 + 0 + 0 over 4 rows.
    assert utility_truth_ratio([0.5, 0.25, 1.0, 4.0]) == 0.3125


def test_forget_quality_of_identical_ratios_is_one():
    assert forget_quality([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == 1.0


def test_forget_quality_of_separated_ratios():
    # Exact two-sample test, D = 1: 2 of the C(8, 4) = 70 orderings are that extreme.
    assert forget_quality([1, 2, 3, 4], [5, 6, 7, 8]) == pytest.approx(2 / 70, rel=1e-12)


def test_forget_quality_of_different_row_counts():
    # D = 1 with 2 and 3 rows: 2 of the C(5, 2) = 10 orderings.
    assert forget_quality([1, 2], [3, 4, 5]) == pytest.approx(0.2, rel=1e-12)


@pytest.mark.parametrize("function", [forget_truth_ratio, utility_truth_ratio, lambda r: forget_quality([1.0], r)])
@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ([0.5, float("nan")], "ratios must be finite.*got nan at index 1.*truth_ratio"),
        ([-0.5], r"ratios must be.*>= 0, got -0\.5"),
        ([], "ratios is empty"),
        ([[0.5]], r"ratios must be one-dimensional.*got shape \(1, 1\)"),
    ],
)
def test_aggregates_reject(function, ratios, message):
    with pytest.raises(InputError, match=message):
        function(ratios)


def test_forget_quality_names_the_first_sample_too():
    with pytest.raises(InputError, match=r"^ratios must be finite"):
        forget_quality([float("nan")], [1.0])
