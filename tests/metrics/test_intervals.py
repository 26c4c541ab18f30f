"""Intervals over people, models and attack seeds: literals worked by hand, and what draws add to the spread."""

import numpy as np
import pytest

from llm_unlearn.metrics.intervals import percentile_interval, resampled_difference


def test_the_difference_is_that_of_the_means_over_what_was_scored():
    # Attack seed 0 scored rows 0 and 1, seed 1 rows 1 and 2: means (0.2 + 0.4 + 0.6 + 0.8) / 4 and 0.1.
    first = [[[0.2, 0.4, np.nan], [np.nan, 0.6, 0.8]]]
    second = np.where(np.isnan(first), np.nan, 0.1)
    point, resampled = resampled_difference(first, second, [0, 1, 2])
    assert point == pytest.approx(0.5 - 0.1)
    assert resampled.min() >= 0.2 - 0.1 - 1e-12 and resampled.max() <= 0.8 - 0.1 + 1e-12


def test_one_side_alone_is_a_mean():
    point, resampled = resampled_difference([[[0.25, 0.75]]], None, [0, 1])
    assert point == 0.5
    # two people, drawn twice: both first (1/4), both second (1/4), one of each (1/2)
    values, counts = np.unique(resampled, return_counts=True)
    assert values.tolist() == [0.25, 0.5, 0.75]
    assert counts / len(resampled) == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_a_person_is_drawn_as_a_whole():
    rows = [[[0.0] * 10 + [1.0] * 10]]
    _, of_rows = resampled_difference(rows, None, range(20))
    _, of_people = resampled_difference(rows, None, [0] * 10 + [1] * 10)
    assert set(np.unique(of_people)) == {0.0, 0.5, 1.0}
    assert of_people.std() == pytest.approx(np.sqrt(10) * of_rows.std(), rel=0.05)


def test_people_and_attack_seeds_are_the_same_on_both_sides():
    """The two sides differ by a constant: whoever is drawn, so do they then."""
    first = np.random.default_rng(0).random((1, 3, 8))
    point, resampled = resampled_difference(first, first - 0.3, range(8))
    assert point == pytest.approx(0.3)
    assert resampled == pytest.approx(np.full(len(resampled), 0.3))


def test_models_are_drawn_on_each_side_for_itself():
    seeds_differ = np.array([0.0, 1.0])[:, None, None] * np.ones((2, 1, 4))
    point, resampled = resampled_difference(seeds_differ, seeds_differ, range(4))
    assert point == 0 and set(np.unique(resampled)) == {-1.0, -0.5, 0.0, 0.5, 1.0}
    assert resampled_difference(np.ones((1, 1, 4)), np.zeros((1, 1, 4)), range(4))[1].std() == 0


def test_the_interval_is_central_and_repeats_itself():
    assert percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
    values = np.random.default_rng(1).random((2, 2, 6))
    again = [resampled_difference(values, None, range(6))[1] for _ in range(2)]
    assert (again[0] == again[1]).all()


def test_few_people_get_an_interval_like_students():
    """Six values with mean 0 and variance 10.5 / 5: t(5) has 2.571, so 0 +- 2.571 sqrt(2.1 / 6) = 1.521."""
    values = [-2.0, -1.0, -0.5, 0.5, 1.0, 2.0]
    half = 1.521
    resampled = resampled_difference([[values]], None, range(6), resamples=40_000)[1]
    # six values have few means, so the quantile is not the normal one to the second digit
    assert percentile_interval(resampled, units=6) == pytest.approx((-half, half), abs=0.11)
    assert percentile_interval(resampled)[1] < 0.8 * half
    assert percentile_interval(resampled, units=1) == percentile_interval(resampled)  # nothing to be told about one


def test_coverage_with_few_people():
    generator, held = np.random.default_rng(4), {6: 0, None: 0}
    for _ in range(500):
        values = generator.normal(0, 1, (1, 1, 6))
        resampled = resampled_difference(values, None, range(6), resamples=499)[1]
        for units in held:
            low, high = percentile_interval(resampled, units=units)
            held[units] += low <= 0 <= high
    assert held[6] > 450 and held[6] > held[None]


def test_coverage_where_two_models_are_equally_ignorant():
    """Of 100 worlds with 10 people and no difference, about 95 intervals hold zero."""
    generator, held = np.random.default_rng(3), 0
    for _ in range(100):
        person = generator.normal(0.5, 0.1, 10)[:, None]
        sides = [(person + generator.normal(0, 0.1, (10, 7))).reshape(1, 1, 70) for _ in range(2)]
        low, high = percentile_interval(resampled_difference(*sides, np.repeat(range(10), 7), resamples=499)[1])
        held += low <= 0 <= high
    assert 87 <= held <= 99


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.ones((1, 2, 3)), np.ones((1, 1, 3)), "attack seeds and rows must be the same"),
        (np.ones((1, 1, 4)), None, "with 3 units"),
        (np.full((1, 1, 3), np.nan), None, "no row was scored"),
    ],
)
def test_errors(first, second, message):
    with pytest.raises(ValueError, match=message):
        resampled_difference(first, second, [0, 1, 2])
