"""Transfer probes in numbers: values that can be read off, membership, and the output head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_unlearn.reporting.influence_table import Section
from llm_unlearn.reporting.words import NOTHING, number_words


def probes_sections(results: Mapping[str, Any]) -> list[Section]:
    """The tables of transfer probes; none where they were not measured.

    Args:
        results: what `audits_benchmark` returns.
    """
    if not results.get("probes"):
        return []
    sections = [make(results) for make in (_values, _reading, _membership, _alignment)]
    return [section for section in sections if section is not None]


def _values(results: Mapping[str, Any]) -> Section:
    rows = []
    for model, found in results["probes"].items():
        layer = found["layers"][found["block"]]
        cells = [_number(layer[name]) for name in ("retained", "retained_held_out")]
        cells += [_with_interval(layer["forgotten"], layer["interval"]), _number(layer["forgotten_held_out"])]
        rows.append([results["labels"][model], *cells, _number(layer["shuffled"])])
    first = next(iter(results["probes"].values()))
    caption = (
        f"Accuracy after block {first['block']}, in which the original's retained people are read best; chance "
        f"{first['chance']:.2f}, the most frequent value {first['majority']:.2f}. Readouts are learned from "
        f"{first['people']['retained']} retained people, each of whom is left out in turn, then asked about "
        f"{first['people']['forgotten']} forgotten ones. reworded: in a wording that nobody trained. shuffled: learned "
        "with shuffled labels, about forgotten people. 95 % intervals over people."
    )
    return Section(
        "transfer probes: is the value in the hidden state?",
        ["model", "retained", "reworded", "forgotten", "reworded", "shuffled"],
        rows,
        " ".join([caption, *(f"{note}." for note in first["notes"])]),
    )


def _reading(results: Mapping[str, Any]) -> Section | None:
    found = {model: one["reading"] for model, one in results["probes"].items() if "reading" in one}
    if not found:
        return None
    rows, refused = [], []
    for model, one in found.items():
        label, most = results["labels"][model], one.get("most")
        cells = [_number(one.get(name)) for name in ("original", "oracle", "unlearned")]
        cells += [_with_interval(one.get("excess"), one.get("interval")), _number(one.get("share"))]
        in_block = f"{_with_interval(most['excess'], most['interval'])} ({most['block']})" if most else NOTHING
        rows.append([label, *cells, in_block])
        refused += [f" {label}: {one['refused']}."] if "refused" in one else []
    return Section(
        "transfer probes: what is left of the original's advantage over oracles",
        ["model", "original", "oracles", "model itself", "excess", "share", "most (block)"],
        rows,
        "Accuracies on forgotten people as above; excess: over the oracles; share: of the original's excess; most: in "
        "the block with the highest excess, which chance has helped to be that. 95 % intervals over people."
        + "".join(refused),
    )


def _membership(results: Mapping[str, Any]) -> Section | None:
    found = {model: one["membership"] for model, one in results["probes"].items() if "membership" in one}
    if not found:
        return None
    people = next(iter(results["probes"].values()))["people"]
    rows = [
        [
            results["labels"][model],
            str(one["block"]),
            *(_number(one[name]) for name in ("auc", "retained", "never_trained")),
            _with_interval(one["forgotten"], one["interval"]),
        ]
        for model, one in found.items()
    ]
    return Section(
        "membership: who is called one of the trained people?",
        ["model", "block", "AUC", "retained", "never trained", "forgotten"],
        rows,
        f"Shares of people. AUC: of {people['retained']} retained against {people['never_trained']} never trained "
        "people, each left out in turn; the block is the one in which it is highest. 95 % intervals over people.",
    )


def _alignment(results: Mapping[str, Any]) -> Section | None:
    found = {model: one["alignment"] for model, one in results["probes"].items()}
    if not any(one["retained"] for one in found.values()):
        return None
    rows = [
        [results["labels"][model], *_cells(one["retained"]), *_cells(one["forgotten"])] for model, one in found.items()
    ]
    first = next(iter(found.values()))
    left_out = f" {first['left_out']} values begin with a token of another one, too." if first["left_out"] else ""
    return Section(
        "output head: cosine of a value's states with its row",
        ["model", "retained", "other values", "forgotten", "other values"],
        rows,
        "Of the mean state that the head is given for a value with the head's row of its first token, and with those "
        f"of other values; means over {len(first['by_value'])} values.{left_out}",
    )


def _cells(pair: Sequence[float] | None) -> list[str]:
    return [_number(value) for value in pair or (None, None)]


def _number(value: float | None) -> str:
    return number_words(value, 2)


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    ends = "" if interval is None else f" [{', '.join(map(_number, interval))}]"
    return f"{_number(value)}{ends}"
