"""What can be said of a request to forget as soon as it is served, before anything is attacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from llm_unlearn.examining.evidence import IGNORANT, SMALLEST_GAP
from llm_unlearn.examining.price import KEPT

NOT_REACHED, KNOWN, AVOIDED, LOST = "stopping scores not reached", "still known", "avoided", "an ability lost"
FORGOTTEN = "forgotten, before any attack"


def judgment(found: Mapping[str, Any], stopped: bool, has_limits: bool) -> str:
    """The first of these that holds: the training did not stop at the scores that were asked for; of all requests so
    far, more is known on average than whoever never saw them knows, or they are avoided, by 0.15 or more; less than
    95 % of an ability is kept; or none of that.

    Knowledge is compared with 0.5, and where it was not measured the answer probability with the oracles'.

    Args:
        found: `knowledge`, `probability` and `oracle_probability` of each request so far, and `kept`.
        stopped: by the stopping scores. has_limits: there were any.
    """
    if has_limits and not stopped:
        return NOT_REACHED
    excess = fmean(left_of(found) or [0.0])
    if abs(excess) >= SMALLEST_GAP:
        return KNOWN if excess > 0 else AVOIDED
    if found["kept"] is not None and found["kept"] < KEPT:
        return LOST
    return FORGOTTEN


def left_of(found: Mapping[str, Any]) -> list[float]:
    """Of each request so far, how far it is from ignorance, above or below; requests that cannot be compared are out.

    Args:
        found: as `judgment`.
    """
    oracle = found["oracle_probability"] or [None] * len(found["probability"])
    rows = zip(found["knowledge"], found["probability"], oracle, strict=False)
    both = [known - IGNORANT if known is not None else _difference(own, other) for known, own, other in rows]
    return [one for one in both if one is not None]


def of_earlier(values: Sequence[float | None]) -> float | None:
    """The mean over all requests but the last; None where there is none."""
    known = [value for value in values[:-1] if value is not None]
    return fmean(known) if known else None


def _difference(own: float, other: float | None) -> float | None:
    return None if other is None else own - other
