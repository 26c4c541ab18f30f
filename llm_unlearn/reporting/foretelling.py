"""What foretells what an attack brings back, as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llm_unlearn.errors import InputError
from llm_unlearn.reporting.figures import COLORS
from llm_unlearn.reporting.influence_figure import saved
from llm_unlearn.reporting.influence_table import Section
from llm_unlearn.reporting.words import NOTHING, number_words

_PANELS = 3  # what foretells best is drawn


def foretelling_sections(results: Mapping[str, Any]) -> list[Section]:
    """The table of rank correlations with what reinjection brings back; none where too few models were attacked.

    Args:
        results: what `audits_benchmark` returns.
    """
    found = results.get("foretold")
    if not found:
        return []
    rows = [
        [label, *(_with_interval(correlations[name]) for name in ("all", "undamaged", "rise"))]
        for label, correlations in _ordered(found)
    ]
    return [
        Section(
            "what foretells what reinjection brings back?",
            ["before any attack", "all models", "without lost abilities", "rise"],
            rows,
            f"Spearman's rank correlation with knowledge after reinjection over {found['models']} models of "
            f"{found['methods']} methods, and over the {found['undamaged']} of them that surely lost no ability; rise: "
            "of these, with how much knowledge rises. 95 % intervals over methods.",
        )
    ]


def foretelling_figure(results: Mapping[str, Any], path: str | Path) -> Figure:
    """Knowledge after reinjection against what foretells it best: a point for each method, the mean of its models.

    Methods whose models lost abilities are hollow.

    Raises:
        InputError: too few models were attacked.
    """
    found = results.get("foretold")
    if not found:
        raise InputError("foretold: too few of the models were attacked before, so there is nothing to draw")
    labels = [label for label, _ in _ordered(found)[:_PANELS]]
    figure = Figure(figsize=(4.3 * len(labels), 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(labels), squeeze=False, sharey=True)[0]
    for axes, label in zip(panels, labels, strict=True):
        _draw(axes, label, found["points"])
        value = found["correlations"][label]["undamaged"]["value"]
        axes.set_title(f"rank correlation {number_words(value, 2)}", fontsize=9)
    panels[0].set_ylabel("knowledge after reinjection")
    figure.suptitle("What foretells what an attack brings back? (hollow: lost abilities)", fontsize=11)
    return saved(figure, path)


def _ordered(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The strongest correlation first, whatever its sign."""
    strength = {label: abs(one["undamaged"]["value"] or 0) for label, one in found["correlations"].items()}
    return sorted(found["correlations"].items(), key=lambda pair: -strength[pair[0]])


def _draw(axes: Axes, label: str, points: Mapping[str, Mapping[str, Any]]) -> None:
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for point in points.values():
        if point["scores"][label] is not None:
            by_method.setdefault(point["method"], []).append(point)
    for method, own in by_method.items():
        place = fmean(point["scores"][label] for point in own), fmean(point["after"] for point in own)
        color = COLORS["unlearned"]
        face = "none" if any(point["damaged"] for point in own) else color
        axes.plot(*place, "o", color=color, markerfacecolor=face, clip_on=False)
        axes.annotate(method, place, xytext=(4, 3), textcoords="offset points", fontsize=7, parse_math=False)
    axes.set_xlabel(label, parse_math=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _with_interval(correlation: Mapping[str, Any]) -> str:
    if correlation["value"] is None:
        return NOTHING
    ends: Sequence[float] | None = correlation["interval"]
    words = "" if ends is None else f" [{', '.join(number_words(end, 2) for end in ends)}]"
    return number_words(correlation["value"], 2) + words
