import math

import numpy as np
import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import probability, probability_with_options


def test_probability_is_the_geometric_mean_over_tokens():
    # Token probabilities 1/2 and 1/8: nll = ln 16 over two tokens, so sqrt(1/16).
    assert probability(math.log(16), 2) == pytest.approx(0.25, rel=1e-15)


def test_probability_of_a_one_token_answer_is_that_token_probability():
    assert probability(math.log(5), 1) == pytest.approx(0.2, rel=1e-15)


def test_probability_of_a_certain_answer_is_one():
    assert probability(0.0, 7) == 1.0


def test_probability_of_rows():
    np.testing.assert_allclose(probability([0.0, math.log(4), math.log(27)], [1, 2, 3]), [1, 1 / 2, 1 / 3], rtol=1e-15)


@pytest.mark.parametrize(
    ("nll", "length", "message"),
    [
        (float("nan"), 2, "nll must be finite.*got nan"),
        (float("inf"), 2, "nll must be finite.*got inf"),
        (-1.5, 2, r"nll must be.*got -1\.5.*not a log-probability"),
        ([1.0, -2.0], [1, 1], r"got -2\.0 at index 1"),
        (1.0, 0, r"length must be.*>= 1, got 0\.0.*no token"),
        ([1.0, 2.0], [1], r"nll has shape \(2,\) but length has shape \(1,\)"),
        ([], [], "nll is empty"),
        ("1.0", 1, "nll must hold numbers"),
        (None, 1, "nll must hold numbers, got None"),
    ],
)
def test_probability_rejects(nll, length, message):
    with pytest.raises(InputError, match=message):
        probability(nll, length)


def test_options_normalize_against_the_sum_of_wrong_answers():
    assert probability_with_options(0.3, [0.1, 0.2]) == pytest.approx(0.5, rel=1e-9)


def test_options_equal_to_a_single_wrong_answer_give_one_half():
    assert probability_with_options(0.2, [0.2]) == pytest.approx(0.5, rel=1e-9)


def test_options_all_impossible_give_zero():
    assert probability_with_options(0.0, [0.0, 0.0]) == 0.0


def test_options_keep_the_epsilon_of_the_published_code():
    assert probability_with_options(1e-10, [0.0]) == pytest.approx(0.5, rel=1e-15)


def test_options_of_rows():
    result = probability_with_options([0.5, 0.1], [[0.25, 0.25], [0.2, 0.1]])
    np.testing.assert_allclose(result, [0.5, 0.25], rtol=1e-8)


@pytest.mark.parametrize(
    ("correct", "wrong", "message"),
    [
        (float("nan"), [0.1], "correct must be finite"),
        (0.1, [0.1, float("nan")], "wrong must be finite.*at index 1"),
        (1.5, [0.1], r"correct must be.*<= 1, got 1\.5"),
        (0.5, [-0.1], r"wrong must be.*>= 0.*got -0\.1"),
        ([0.5, 0.5], [[0.1, 0.2]], r"wrong has shape \(1, 2\) but correct has shape \(2,\)"),
        (0.5, 0.1, r"wrong has shape \(\) but"),
        ([0.5, 0.5], [[0.1, 0.2], [0.1]], "wrong has rows of different lengths"),
        (0.5, [], "wrong is empty"),
    ],
)
def test_options_reject(correct, wrong, message):
    with pytest.raises(InputError, match=message):
        probability_with_options(correct, wrong)
