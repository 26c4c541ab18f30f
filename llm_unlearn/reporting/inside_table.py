"""Retrain consistency and unlearning depth in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_unlearn.reporting.influence_table import Section
from llm_unlearn.reporting.words import number_words

PLACES = {"value": "before the value", "question": "at the end of the question"}
NO_CEILING = " No ceiling: that takes a second oracle."


def inside_sections(results: Mapping[str, Any]) -> list[Section]:
    """The tables of the audits `consistency` (one a place) and `depth`; those that were measured.

    Args:
        results: what `influence_benchmark` returns.
    """
    consistency = [_consistency(results, place, words) for place, words in PLACES.items()]
    return [section for section in (*consistency, _depth(results)) if section is not None]


def _consistency(results: Mapping[str, Any], place: str, words: str) -> Section | None:
    ceilings = results.get("consistency_ceiling") or {}
    found = {name: one[place] for name, one in (ceilings | (results.get("consistency") or {})).items() if place in one}
    if not found:
        return None
    rows = []
    for name, numbers in found.items():
        aligned, raw = numbers["aligned"], numbers["raw"]
        label = results["labels"][name]
        rows.append(
            [
                f"{label} (ceiling)" if name in ceilings else label,
                *(_with_interval(aligned[one]) for one in ("forget_consistency", "retain_consistency", "direction")),
                *(number_words(aligned[one]["value"], 2) for one in ("magnitude", "concentration", "asymmetry")),
                number_words(raw["forget_consistency"]["value"], 2),
                number_words(_mean(numbers["cka"]["forget"]), 2),
            ]
        )
    asymmetry = next(iter(found.values()))["aligned"]["original_asymmetry"]["value"]
    return Section(
        f"retrain consistency, {words}",
        ["model", "forget", "retain", "direction", "magnitude", "concentration", "asymmetry", "not aligned", "CKA"],
        rows,
        "Aligned to the original, mean over blocks, 95 % interval over people. The original has consistency 0 and "
        f"asymmetry {number_words(asymmetry, 2)}, the oracle consistency 1; where the ceiling is no higher than 0, the "
        "numbers say nothing. not aligned: of the forget rows as they are." + ("" if ceilings else NO_CEILING),
    )


def _depth(results: Mapping[str, Any]) -> Section | None:
    if not results.get("depth"):
        return None
    rows = [
        [
            results["labels"][name],
            f"{number_words(one['uds'], 2)}{_interval(one['interval'])}",
            number_words(one["unclipped"], 2),
            " ".join(number_words(value, 2) for value in one["by_layer"]),
            f"{one['rows']} of {one['rows'] + one['rows_left_out']}",
        ]
        for name, one in results["depth"].items()
    ]
    first = next(iter(results["depth"].values()))
    return Section(
        "unlearning depth (UDS)",
        ["model", "UDS", "unclipped", "by block", "rows"],
        rows,
        f"What the original loses of the log-probability of {first['tokens']} with the model's hidden states, as a "
        f"share of what it loses with those of the {first['reference']}; itself it has 0. unclipped: the same where "
        "more than that counts as more; far above 1, the states are damaged or foreign, not forgetful.",
    )


def _with_interval(number: Mapping[str, Any]) -> str:
    return number_words(number["value"], 2) + _interval(number["interval"])


def _interval(interval: list[float] | None) -> str:
    return "" if interval is None else f" [{', '.join(number_words(end, 2) for end in interval)}]"


def _mean(values: list[float | None]) -> float | None:
    """Of those that are defined."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
