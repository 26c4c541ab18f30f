import numpy as np
import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import exact_memorization, extraction_strength

COMPAT = "open-unlearning"


@pytest.mark.parametrize(
    ("hits", "expected", "compat_expected"),
    [
        # compat leaves the last token out: 2 tokens of 3 remain.
        ([1, 1, 1], 1, 1),
        ([0, 0, 0], 0, 0),
        ([1, 0, 1], 2 / 3, 1 / 2),
        ([0, 0, 1], 1 / 3, 0),
        ([1, 1, 0], 2 / 3, 1),
        ([1, 0], 1 / 2, 1),
        ([1], 1, None),
        ([0], 0, None),
    ],
)
def test_exact_memorization(hits, expected, compat_expected):
    assert exact_memorization(hits) == pytest.approx(expected, rel=1e-15)
    assert exact_memorization(hits, compat=COMPAT) == compat_expected


@pytest.mark.parametrize(
    ("hits", "expected", "compat_expected"),
    [
        # compat sees L' = 2 tokens of 3.
        ([1, 1, 1], 1, 1),  # k = 0
        ([0, 1, 1], 2 / 3, 1 / 2),  # k = 1 of 3, 1 of 2
        ([0, 0, 1], 1 / 3, 1 / 2),  # k = 2 of 3; compat has no hit and stops at k = 1
        ([1, 0, 1], 1 / 3, 1 / 2),  # a hit before a miss does not count
        ([0, 1, 0], 0, 1 / 2),  # compat never sees the missed end
        ([1, 1, 0], 0, 1),
        ([0, 0, 0], 0, 1 / 2),  # all forgotten: 1 / L' instead of 0
        ([0, 0, 0, 0, 0], 0, 1 / 4),
        ([0, 0], 0, 1),  # all forgotten with one token before the end: compat calls it fully extracted
        ([1, 0], 0, 1),
        ([0, 1], 1 / 2, 1),
        ([1], 1, 0),
        ([0], 0, 0),
    ],
)
def test_extraction_strength(hits, expected, compat_expected):
    assert extraction_strength(hits) == pytest.approx(expected, rel=1e-15)
    assert extraction_strength(hits, compat=COMPAT) == compat_expected


@pytest.mark.parametrize("hits", [[True, False, True], (1.0, 0.0, 1.0), np.array([True, False, True])])
def test_hits_may_be_bools_or_numbers(hits):
    assert exact_memorization(hits) == pytest.approx(2 / 3, rel=1e-15)
    assert extraction_strength(hits) == pytest.approx(1 / 3, rel=1e-15)


def test_scores_are_plain_floats():
    assert type(exact_memorization([True])) is type(extraction_strength([True])) is float
    assert type(extraction_strength([0])) is type(extraction_strength([1], compat=COMPAT)) is float


@pytest.mark.parametrize("function", [exact_memorization, extraction_strength])
@pytest.mark.parametrize("compat", [None, COMPAT])
@pytest.mark.parametrize(
    ("hits", "message"),
    [
        ([], "token_hits is empty: pass one bool per answer token"),
        ([0, 2], r"token_hits must be 0 or 1, got 2\.0"),
        ([0.5], r"token_hits must be 0 or 1, got 0\.5"),
        ([0, -1], r"token_hits must be finite and >= 0, got -1\.0 at index 1"),
        ([1, float("nan")], "token_hits must be finite.*got nan at index 1"),
        (1, "token_hits must be one-dimensional"),
        ([[True, False]], r"token_hits must be one-dimensional.*got shape \(1, 2\)"),
        ([[True], [True, False]], "token_hits has rows of different lengths"),
        (None, "token_hits must hold numbers, got None"),
        (["yes"], "token_hits must hold numbers"),
    ],
)
def test_hits_are_checked(function, compat, hits, message):
    with pytest.raises(InputError, match=message):
        function(hits, compat=compat)


@pytest.mark.parametrize("function", [exact_memorization, extraction_strength])
@pytest.mark.parametrize("compat", ["open_unlearning", "", True])
def test_unknown_compat_lists_the_choices(function, compat):
    with pytest.raises(InputError, match=r"compat .* is unknown: choose one of open-unlearning"):
        function([1, 1], compat=compat)
