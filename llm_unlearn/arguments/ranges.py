"""Numbers that a field may have, and one line where it has another: before anything is loaded or trained."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence

from llm_unlearn.errors import InputError

Range = tuple[float, float]  # lowest and highest value

COUNT = (1, 2**31 - 1)
COUNT_OR_NONE = (0, 2**31 - 1)
LENGTH = (2, 2**31 - 1)  # tokens of a row: with one, nothing is left to predict
SEED = (0, 2**32 - 1)  # what NumPy takes; a negative one is not another one to Python's `random`, which drops the sign
NOT_NEGATIVE = (0, sys.float_info.max)
POSITIVE = (math.nextafter(0, 1), sys.float_info.max)
BELOW_ONE = (0, math.nextafter(1, 0))


def check_ranges(arguments: object, ranges: Mapping[str, Range]) -> None:
    """Look at fields of `arguments`, numbers or lists of them; None is passed over.

    Raises:
        InputError: a value lies outside its range, or is NaN.
    """
    for name, allowed in ranges.items():
        value = getattr(arguments, name)
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is not None and not allowed[0] <= one <= allowed[1]:
                raise InputError(f"{name}={one} must be {_words(one, allowed)}")


def check_each_once(arguments: object, names: Sequence[str]) -> None:
    """Look at fields that hold lists: a seed that is given twice would count as two.

    Raises:
        InputError: a list is empty, or has a value twice.
    """
    for name in names:
        values = getattr(arguments, name)
        if not values or len(set(values)) < len(values):
            raise InputError(f"{name}={values} must be one or more, each of them once")


def _words(value: float, allowed: Range) -> str:
    lowest, highest = allowed
    text = "above 0" if lowest == POSITIVE[0] else f"{lowest} or more"
    if highest == sys.float_info.max:
        return f"{text} and finite"
    if highest == BELOW_ONE[1]:
        return f"{text}, and below 1"
    is_mere_limit = highest == COUNT[1] and value < lowest  # of the machine: no news to who gave too little
    return text if is_mere_limit else f"{text}, and {highest} at most"
