"""How fast the forgotten facts come back, by method: means over unlearning seeds beside original and oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llm_unlearn.attacks import attack_label
from llm_unlearn.examining.results import model_entries
from llm_unlearn.reporting.figures import COLORS, MARKERS, METHOD_STYLES


def methods_recovery_figure(
    references: Mapping[str, Mapping[str, Any]], runs: Sequence[Mapping[str, Any]], path: str | Path
) -> Figure | None:
    """Draw forget probability against relearning steps, a panel per relearning attack; save to `path`.

    Args:
        references: attack -> model -> outcome of the original and the oracles.
        runs: the results of every run; those of one `method` are averaged.

    Returns:
        The figure, or None where no attack has a curve.
    """
    attacks = [name for name, by_model in references.items() if any("curve" in one for one in by_model.values())]
    if not attacks:
        return None
    methods = list(dict.fromkeys(run["method"] for run in runs))
    # a Figure of its own: pyplot would keep every figure alive and may ask for a display
    figure = Figure(figsize=(max(6.4, 1.4 + 4.2 * len(attacks)), 5.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, attack in zip(figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0], attacks, strict=True):
        for model in ("original", "oracle"):
            _draw_reference(axes, model, [one["curve"] for one in model_entries(references[attack], model)])
        for number, method in enumerate(methods):
            curves = [run["attacks"][attack]["unlearned"]["curve"] for run in runs if run["method"] == method]
            color, marker, line = METHOD_STYLES[number % len(METHOD_STYLES)]
            _draw(axes, curves, color=color, marker=marker, linestyle=line, label=method)
        axes.set(xlabel="relearning optimizer steps", ylim=(0, 1), title=f"after {attack_label(attack)}")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("mean answer probability (0 to 1)\nof facts that the attack never taught")
    figure.suptitle("Do the unlearned facts come back? Means over seeds; oracle with its range", fontsize=11)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Software": None})  # the same results make the same file
    return figure


def _draw_reference(axes: Axes, model: str, curves: list[list[dict]]) -> None:
    if not curves:
        return
    _draw(axes, curves, color=COLORS[model], marker=MARKERS[model], linestyle="-", label=model)
    if len(curves) > 1:
        values = [[point["forget_probability"] for point in points] for points in zip(*curves, strict=True)]
        steps = [point["step"] for point in curves[0]]
        axes.fill_between(steps, [*map(min, values)], [*map(max, values)], color=COLORS[model], alpha=0.3)


def _draw(axes: Axes, curves: list[list[dict]], **style: Any) -> None:
    steps = [point["step"] for point in curves[0]]
    means = [fmean(point["forget_probability"] for point in points) for points in zip(*curves, strict=True)]
    axes.plot(steps, means, markersize=5, clip_on=False, zorder=3, **style)
