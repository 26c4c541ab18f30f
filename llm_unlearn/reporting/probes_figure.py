"""Transfer probes in a picture: what can be read off after each block."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llm_unlearn.errors import InputError
from llm_unlearn.reporting.figures import COLORS
from llm_unlearn.reporting.influence_figure import model_style, saved


def probes_figure(results: Mapping[str, Any], path: str | Path) -> Figure:
    """Accuracy on forgotten people after each block, a line for each model; oracles are a band from lowest to highest.

    Thin lines: on retained people, each of whom the readout never saw.

    Raises:
        InputError: probes were not measured.
    """
    probes = results["probes"]
    if not probes:
        raise InputError("transfer probes: not measured, so there is nothing to draw")
    figure = Figure(figsize=(6.4, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    unlearned = [model for model in probes if model.startswith("unlearned")]
    oracles = [_along(found, "forgotten") for model, found in probes.items() if model.startswith("oracle")]
    if oracles:
        blocks = range(len(oracles[0]))
        ends = [[end(column) for column in zip(*oracles, strict=True)] for end in (min, max)]
        axes.fill_between(blocks, *ends, color=COLORS["oracle"], alpha=0.3, linewidth=0, label="oracles: range")
        axes.plot(blocks, [sum(column) / len(column) for column in zip(*oracles, strict=True)], color=COLORS["oracle"])
    for model, found in probes.items():
        if model.startswith("oracle"):
            continue
        color, marker, style = model_style(model, unlearned)
        forgotten = _along(found, "forgotten")
        label = results["labels"][model].replace("$", r"\$")
        axes.plot(forgotten, style, color=color, marker=marker, label=label, clip_on=False, zorder=3)
        axes.plot(_along(found, "retained"), style, color=color, linewidth=0.7, alpha=0.8)
    chance = next(iter(probes.values()))["chance"]
    axes.axhline(chance, color="black", linestyle="--", linewidth=1, label="chance")
    axes.set(xlabel="block whose output is read", ylabel="value read off correctly\n(forgotten people; thin: retained)")
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Transfer probes: is the value still in the hidden state?", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return saved(figure, path)


def _along(found: Mapping[str, Any], name: str) -> list[float]:
    return [layer[name] for layer in found["layers"]]
