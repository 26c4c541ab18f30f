"""What will be hard, and what requests did one after the other, in pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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


def saved(figure: Figure, path: Path) -> Figure:
    """Write it; the same results make the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return figure
