"""What will be hard, and what requests did one after the other, in pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llm_unlearn.planning.requests import of_earlier

GROUP_STYLES = {"low": ("#009E73", "o"), "middle": ("#E69F00", "s"), "high": ("#D55E00", "^"), None: ("#000000", "x")}
_TITLES = {
    "memorization": "how well memorized",
    "entanglement": "how entangled with retain rows",
}


def plan_figure(found: Mapping[str, Any], path: Path) -> Figure | None:
    """Each score of a plan, its people (or facts) from low to high, in the colors of their groups; None: no score.

    Args:
        found: as `runs.plan.plan` returns it.
    """
    scores = [name for name in _TITLES if name in found]
    if not scores:
        return None
    figure = Figure(figsize=(1.2 + 4.2 * len(scores), 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    drawn = {}
    for axes, name in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
        units = sorted((unit for unit in found["units"] if unit[name] is not None), key=lambda unit: unit[name])
        for group, (color, marker) in GROUP_STYLES.items():
            points = [(place, unit[name]) for place, unit in enumerate(units, 1) if unit[f"{name}_group"] == group]
            if points:
                drawn[group or "no group"] = axes.plot(*zip(*points, strict=True), marker, color=color)[0]
        axes.set(title=_TITLES[name], ylabel=found["memorization"]["score"] if name == "memorization" else "ES")
        axes.set_xlabel("people or facts to forget, in order")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=4, frameon=False)
    return saved(figure, path)


def sequence_figure(found: Mapping[str, Any], path: Path) -> Figure:
    """Over requests, what is left of the one just served and of all before it, and what was lost so far.

    Knowledge where it was measured of every request but the first, which may have none to be compared with; else the
    answer probability.

    Args:
        found: as `runs.sequence.sequence` returns it.
    """
    requests = found["requests"]
    knows = len(requests) > 1 and all(one["knowledge"][-1] is not None for one in requests[1:])
    score = "knowledge" if knows else "probability"
    figure = Figure(figsize=(9.6, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for words, color, marker, value in (
        ("the request just served", "#D55E00", "^", lambda values: values[-1]),
        ("mean of all earlier requests", "#0072B2", "o", of_earlier),
    ):
        points = [(one["request"], value(one[score])) for one in requests]
        points = [(number, known) for number, known in points if known is not None]
        if points:
            left.plot(*zip(*points, strict=True), f"-{marker}", color=color, label=words, clip_on=False)
    if knows:
        left.axhline(0.5, color="black", linestyle="--", linewidth=1, label="ignorance")
    elif requests[-1]["oracle_probability"]:
        oracle = [one["oracle_probability"][-1] for one in requests]
        left.plot([one["request"] for one in requests], oracle, "--k", linewidth=1, label="oracle, the same request")
    left.set(title=f"{score if knows else 'answer probability'} that is left", ylim=(0, 1))
    kept = [(one["request"], one["kept"]) for one in requests if one["kept"] is not None]
    if kept:
        right.plot(*zip(*kept, strict=True), "-s", color="#009E73", clip_on=False)
    right.axhline(0.95, color="black", linestyle="--", linewidth=1)
    right.set(title="lowest ability, share that is kept", ylim=(0, max([1.05, *(share for _, share in kept)])))
    for axes in (left, right):
        axes.set_xlabel("requests served")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return saved(figure, path)


def saved(figure: Figure, path: Path) -> Figure:
    """Write it; the same results make the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return figure
