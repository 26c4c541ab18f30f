"""A leaderboard in ten seconds: what each method still knows, and what else it has lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llm_unlearn.examining.evidence import IGNORANT
from llm_unlearn.examining.price import KEPT
from llm_unlearn.reporting.figures import COLORS, METHOD_STYLES

LOST, WHOLE = METHOD_STYLES[0][0], COLORS["oracle"]
POINTS = {  # column of knowledge -> marker and color
    "as asked": ("o", COLORS["original"]),
    "after reinjection": ("D", METHOD_STYLES[2][0]),
    "asked in reverse": ("<", METHOD_STYLES[1][0]),
}


def leaderboard_figure(entries: Sequence[Mapping[str, Any]], names: Sequence[str], path: str | Path) -> Figure:
    """Draw a line for each entry, the first on top; save to `path`.

    Left: knowledge, with ignorance and what oracles have (their interval before any attack); right: what is left of the
    ability that lost most.

    Args:
        entries: of one world and setting (`leaderboard.read_entries`).
        names: what each is called.
    """
    figure = Figure(figsize=(11.5, 1.9 + 0.36 * len(entries)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    known, kept = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1))
    _draw_knowledge(known, entries)
    _draw_kept(kept, entries)
    known.set_yticks(range(len(entries)), names, parse_math=False, fontsize=8)
    known.set_ylim(len(entries) - 0.4, -0.6)
    handles, labels = known.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle("Forgotten: at the dotted line. Nothing else lost: at the dashed one", fontsize=11)
    figure.savefig(path, metadata={"Software": None})  # the same entries make the same file
    return figure


def _draw_knowledge(axes: Axes, entries: Sequence[Mapping[str, Any]]) -> None:
    oracle = entries[0]["references"].get("oracle")
    if oracle is not None:
        axes.axvspan(*oracle["knowledge"]["as asked"]["interval"], color=COLORS["oracle"], alpha=0.2, label="oracles")
    axes.axvline(IGNORANT, color=COLORS["oracle"], linestyle=":")
    for number, entry in enumerate(entries):
        ends = [entry["knowledge"][column]["value"] for column in POINTS if column in entry["knowledge"]]
        axes.plot([min(ends), max(ends)], [number, number], color="#BBBBBB", linewidth=2, zorder=1)
    for column, (marker, color) in POINTS.items():
        points = [
            (entry["knowledge"][column]["value"], number)
            for number, entry in enumerate(entries)
            if column in entry["knowledge"]
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=marker, color=color, label=column, zorder=3, clip_on=False)
    axes.set(xlim=(0, 1), xlabel="knowledge (0.5: ignorant, 1: known)")
    _tidy(axes)


def _draw_kept(axes: Axes, entries: Sequence[Mapping[str, Any]]) -> None:
    axes.axvline(KEPT, color="#555555", linestyle="--")
    for number, entry in enumerate(entries):
        lowest = entry["lowest"]
        if lowest is None:
            continue
        color = LOST if entry["lost"] else WHOLE
        axes.barh(number, min(lowest["share"], 1), color=color, alpha=0.6, height=0.55)
        words = f"{lowest['share']:.2f} {lowest['label']}"
        axes.text(0.02, number, words, va="center", fontsize=7.5, parse_math=False)
    axes.set(xlim=(0, 1.02), xlabel="kept of what lost most (orange: surely lost)")
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
