"""Ranges of numbers: what passes, what does not, and what is said."""

import math
from types import SimpleNamespace

import pytest

from llm_unlearn import InputError
from llm_unlearn.arguments.ranges import (
    BELOW_ONE,
    COUNT,
    COUNT_OR_NONE,
    LENGTH,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    check_each_once,
    check_ranges,
)


@pytest.mark.parametrize(
    ("allowed", "good"),
    [
        (COUNT, [1, 2**31 - 1, [1, 2], None]),
        (COUNT_OR_NONE, [0, None]),
        (LENGTH, [2, None]),
        (SEED, [0, 2**32 - 1, (0, 7)]),
        (NOT_NEGATIVE, [0, 0.0, 1e300, [0.0, 1e-5]]),
        (POSITIVE, [1e-300, 5]),
        (BELOW_ONE, [0, 0.0, 0.999999]),
    ],
)
def test_what_lies_inside(allowed, good):
    for value in good:
        check_ranges(SimpleNamespace(field=value), {"field": allowed})


@pytest.mark.parametrize(
    ("value", "allowed", "message"),
    [
        (0, COUNT, "field=0 must be 1 or more"),
        (2**31, COUNT, "field=2147483648 must be 1 or more, and 2147483647 at most"),
        ([3, -1], COUNT_OR_NONE, "field=-1 must be 0 or more"),
        (1, LENGTH, "field=1 must be 2 or more"),
        (-1, SEED, "field=-1 must be 0 or more, and 4294967295 at most"),
        (math.inf, NOT_NEGATIVE, "field=inf must be 0 or more and finite"),
        (math.nan, NOT_NEGATIVE, "field=nan must be 0 or more and finite"),
        (0.0, POSITIVE, "field=0.0 must be above 0 and finite"),
        (1.0, BELOW_ONE, "field=1.0 must be 0 or more, and below 1"),
    ],
)
def test_what_lies_outside(value, allowed, message):
    with pytest.raises(InputError) as caught:
        check_ranges(SimpleNamespace(field=value), {"field": allowed})
    assert str(caught.value) == message


@pytest.mark.parametrize("values", [[], [1, 1], [0, 1, 0]])
def test_a_list_has_each_value_once(values):
    check_each_once(SimpleNamespace(seeds=[0, 1], other=values), ["seeds"])
    with pytest.raises(InputError, match="must be one or more, each of them once"):
        check_each_once(SimpleNamespace(seeds=values), ["seeds"])
