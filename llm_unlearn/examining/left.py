"""What is left of the forgotten facts before any attack, in all styles of asking: what a search for settings lowers."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any, NamedTuple

from llm_unlearn.data.queries import QUERY_STYLES
from llm_unlearn.examining.evidence import IGNORANT, SMALLEST_GAP
from llm_unlearn.examining.results import model_names

PLAIN = "verbatim"  # the questions as they were trained
KNOWN, PROBABLE = "knowledge", "probability"
_METRICS = {KNOWN: "knowledge", PROBABLE: "Q_A_Prob"}  # of the records

ByStyle = Mapping[str, float]


class Left(NamedTuple):
    """The style of asking that tells most, the score in it, and the mean distance from ignorance over all styles.

    The mean, not the largest: asked in reverse, whatever was tried so far still knew everything, and a number that is
    the same for all settings chooses none.
    """

    style: str
    value: float
    excess: float


def scores_by_style(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of one model knowledge -> style -> share of comparisons of forget facts that the true answer wins, and
    probability -> style -> mean answer probability; styles that were not measured are missing.

    Args:
        records: as `models.judging.judge` gives them.
    """
    prefixes = {style: "forget" if style == PLAIN else f"forget_{style}" for style in QUERY_STYLES}
    found: dict[str, dict[str, float]] = {score: {} for score in _METRICS}
    for score, metric in _METRICS.items():
        for style, prefix in prefixes.items():
            value = records.get(f"{prefix}_{metric}", {}).get("agg_value")
            if value is not None:
                found[score][style] = value
    return found


def ignorance(measured: Mapping[str, Mapping[str, ByStyle]]) -> tuple[str, dict[str, float]]:
    """The score to judge by, and style -> its value in models that never saw the facts: the mean of the oracles.

    As in verdicts it is knowledge where that was measured, also without an oracle (0.5), and otherwise the answer
    probability beside the oracles'; and styles in which the original does not tell what others cannot are left out.

    Args:
        measured: model -> `scores_by_style`, of the original and the oracles.
    """
    score = KNOWN if measured["original"][KNOWN] else PROBABLE
    oracles = [measured[name][score] for name in model_names(measured, "oracle")]
    found = {}
    for style, original in measured["original"][score].items():
        ignorant = [oracle[style] for oracle in oracles if style in oracle] or [IGNORANT] * (score == KNOWN)
        if ignorant and original - (IGNORANT if score == KNOWN else fmean(ignorant)) >= SMALLEST_GAP:
            found[style] = fmean(ignorant)
    return score, found


def what_is_left(own: ByStyle, ignorant: ByStyle) -> Left | None:
    """How far a model is from ignorance, above it *or below*: who avoids true answers gives them away, too.

    Args:
        own: style -> score, or its mean over seeds. ignorant: the same of `ignorance`.

    Returns:
        None where no style was measured in both.
    """
    distances = {style: abs(own[style] - ignorant[style]) for style in ignorant if style in own}
    if not distances:
        return None
    most = max(distances, key=distances.__getitem__)
    return Left(most, own[most], fmean(distances.values()))
