"""Spearman's correlation by values worked by hand, and its interval over people whose every draw is known."""

import math

import numpy as np
import pytest

from llm_unlearn.metrics.rank_correlation import _weighted_spearman, rank_correlation, spearman


def test_correlation_by_hand():
    # ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15) = 0.8
    assert spearman([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)
    assert spearman([1, 2, 3], [0.1, 0.01, 0.001]) == pytest.approx(-1)
    # ranks -1 0 1 and -1 0.5 0.5: 1.5 / sqrt(2 * 1.5)
    assert spearman([1, 2, 3], [0, 7, 7]) == pytest.approx(1.5 / math.sqrt(3))
    assert spearman([1, 2, 3], [5, 5, 5]) is None


def test_an_interval_draws_whole_people():
    # Two people: a draw has the first twice (correlation 1), both (0.8) or the second twice (-1)
    first, second, units = [1, 2, 3, 4], [1, 2, 4, 3], [7, 7, 9, 9]
    found = rank_correlation(first, second, units)
    assert found.value == pytest.approx(0.8) and found.interval == pytest.approx((-1, 1))
    assert (found.rows, found.people) == (4, 2)
    assert rank_correlation(first, second, [7] * 4).interval is None


def test_rows_of_a_person_are_no_further_people():
    draw = np.random.default_rng(3)
    first, second = draw.normal(size=(2, 20))
    second = second + first
    apart = rank_correlation(first, second, range(20))
    again = rank_correlation(np.repeat(first, 10), np.repeat(second, 10), np.repeat(np.arange(20), 10))
    assert again.value == pytest.approx(apart.value) and again.interval == pytest.approx(apart.interval, abs=1e-9)
    as_if = rank_correlation(np.repeat(first, 10), np.repeat(second, 10), range(200))
    assert np.diff(as_if.interval) < 0.6 * np.diff(again.interval)


def test_a_row_that_is_drawn_twice_is_two_rows():
    draw = np.random.default_rng(1)
    first, second = draw.integers(0, 9, (2, 30)).astype(float)  # with ties
    counts = draw.integers(0, 3, (7, 30))
    expected = [spearman(np.repeat(first, one), np.repeat(second, one)) for one in counts]
    assert _weighted_spearman(first, second, counts).tolist() == pytest.approx(expected)
    alone = _weighted_spearman(first, second, np.eye(30, dtype=int)[:1])
    assert np.isnan(alone).all()


def test_rows_without_a_score_are_left_out():
    found = rank_correlation([1, 2, math.nan, 3, 4], [1, 3, 9, 2, 4], [0, 1, 2, 3, 4])
    assert found.value == pytest.approx(0.8) and (found.rows, found.people) == (4, 4)
    assert rank_correlation([math.nan], [1.0], [0]) == (None, None, 0, 0)
    with pytest.raises(ValueError, match="scores of shapes"):
        rank_correlation([1, 2], [1, 2, 3], [0, 1])
