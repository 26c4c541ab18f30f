import math

import numpy as np
import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import leak_at_k


@pytest.mark.parametrize(
    ("chance", "k", "expected"),
    [
        (1 / 4, 1, 1 / 4),
        (1 / 4, 2, 7 / 16),  # 1 - (3/4)^2
        (1 / 2, 3, 7 / 8),  # 1 - (1/2)^3
        (7 / 8, 2, 63 / 64),  # 1 - (1/8)^2
        (1 / 64, 2, 127 / 4096),  # 1 - (63/64)^2
    ],
)
def test_leak_at_k(chance, k, expected):
    assert leak_at_k(-math.log(chance), k) == pytest.approx(expected, rel=1e-14)


def test_one_sample_leaks_with_the_probability_of_the_answer():
    # The summed loss counts, not the average: three tokens of 1/2 make 1/8.
    assert leak_at_k(3 * math.log(2), 1) == pytest.approx(1 / 8, rel=1e-14)


@pytest.mark.parametrize("k", [1, 64, 10**12])
def test_a_certain_answer_always_leaks(k):
    assert leak_at_k(0.0, k) == 1.0


def test_a_tiny_chance_is_exact():
    # 1 - (1 - 1e-30)^64 = 64e-30 (1 - 31.5e-30 ...); 1 - 1e-30 is 1 in floating point.
    assert leak_at_k(30 * math.log(10), 64) == pytest.approx(64e-30, rel=1e-13)


def test_a_tiny_chance_and_many_samples():
    # (1 - 1e-12)^1e12 = 1/e, up to a relative 5e-13.
    assert leak_at_k(12 * math.log(10), 10**12) == pytest.approx(1 - 1 / math.e, rel=1e-12)


def test_a_chance_near_one():
    # 1 - P = 1e-3 - 5e-7 + ..., and two samples miss with its square.
    assert 1 - leak_at_k(1e-3, 2) == pytest.approx(math.expm1(-1e-3) ** 2, rel=1e-9)
    assert leak_at_k(1e-20, 1) == 1.0


def test_an_impossible_answer_never_leaks():
    assert leak_at_k(1e6, 64) == 0.0


def test_leak_at_k_of_rows():
    np.testing.assert_allclose(leak_at_k([0.0, math.log(2), math.log(4)], 2), [1, 3 / 4, 7 / 16], rtol=1e-14)


@pytest.mark.parametrize("k", [2, 2.0, np.int64(2)])
def test_k_may_be_any_whole_number(k):
    assert leak_at_k(math.log(2), k) == pytest.approx(0.75, rel=1e-15)


@pytest.mark.parametrize(
    ("nll", "k", "message"),
    [
        (float("nan"), 1, "nll must be finite.*got nan"),
        (-1.0, 1, r"nll must be.*got -1\.0.*not a log-probability"),
        ([], 1, "nll is empty"),
        (1.0, 0, r"k must be.*>= 1, got 0\.0: pass the number of samples"),
        (1.0, 1.5, r"k must be a whole number, got 1\.5: pass the number of samples"),
        (1.0, [1, 2], r"k must be a single number, got \[1, 2\]"),
        (1.0, True, "k must hold numbers, got True"),
        (1.0, float("inf"), "k must be finite"),
    ],
)
def test_leak_at_k_rejects(nll, k, message):
    with pytest.raises(InputError, match=message):
        leak_at_k(nll, k)
