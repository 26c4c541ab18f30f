"""The influence audit in pictures: D- and D+ block by block and map by map, and the logit lens along the blocks."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from llm_unlearn.errors import InputError
from llm_unlearn.reporting.figures import COLORS, MARKERS, METHOD_STYLES
from llm_unlearn.reporting.influence_table import score_words, short_names
from llm_unlearn.reporting.words import number_words

_SIDES = {
    "hidden": "D\N{MINUS SIGN}: new negative influence (hiding)",
    "erased": "D+: lost positive influence (erasure)",
}
_MOST_NUMBERED = 16  # blocks whose cells still have room for their numbers
_FONT = 9


def influence_figure(results: Mapping[str, Any], path: str | Path) -> Figure:
    """A row for each model that was compared with the original: D- on the left, D+ on the right, all on one scale.

    Each panel has a row of cells for each block, the first at the bottom, and a column for each kind of linear map.

    Args:
        results: what `influence_benchmark` returns.

    Raises:
        InputError: no model was compared.
    """
    comparisons = results["comparisons"]
    if not comparisons:
        raise InputError("influence figure: no model was compared with the original")
    modules = next(iter(comparisons.values()))["modules"]
    kinds = list(dict.fromkeys(name.partition(".")[2] for name in modules))
    blocks = 1 + max(int(name.partition(".")[0]) for name in modules)
    numbered = blocks <= _MOST_NUMBERED
    grids = {
        model: {side: _grid(found["modules"], side, kinds, blocks) for side in _SIDES}
        for model, found in comparisons.items()
    }
    largest = max(float(np.nanmax(grid)) for sides in grids.values() for grid in sides.values())
    scale = Normalize(0.0, largest or 1.0)
    names = short_names(kinds)
    width = max(0.62 * len(kinds), 2.6)
    height = max(blocks * (0.3 if numbered else 0.11), 0.9)
    labels = [textwrap.fill(results["labels"][model], 18) for model in grids]
    below = 0.2 + 0.065 * max(len(name) for name in names)
    size = (2 * width + 2.4, len(grids) * (height + 0.25) + below + 1.3)
    # a Figure of its own: pyplot would keep every figure alive and may ask for a display
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(grids), 2, squeeze=False, sharex=True, sharey=True)
    for row, (label, sides) in enumerate(zip(labels, grids.values(), strict=True)):
        for axes, (side, grid) in zip(panels[row], sides.items(), strict=True):
            image = _draw(axes, grid, scale, numbered)
            if row == 0:
                axes.set_title(_SIDES[side], fontsize=_FONT + 1)
        # names of models come from users: a dollar sign is no formula
        panels[row, 0].set_ylabel(f"{label}\nblock", fontsize=_FONT, parse_math=False)
    panels[0, 0].yaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(blocks, 8)))
    for axes in panels[-1]:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=_FONT)
        axes.set_xlabel("linear map", fontsize=_FONT)
    bar = figure.colorbar(image, ax=panels, fraction=0.2 / size[0], aspect=len(grids) * height / 0.15, pad=0.02)
    bar.set_label(textwrap.fill("sum over the neurons of a map", 24 if len(grids) * height < 2 else 80), fontsize=_FONT)
    bar.ax.tick_params(labelsize=_FONT - 1)
    title = f"Influence on {score_words(results)}: what changed from the original?"
    figure.suptitle(textwrap.fill(title, int(size[0] * 11)), fontsize=_FONT + 2)
    return saved(figure, path)


def lens_figure(results: Mapping[str, Any], path: str | Path) -> Figure:
    """Accuracy of the logit lens after each block, a line for each model, with its interval; chance is dashed.

    Raises:
        InputError: the lens was not measured.
    """
    lenses = results["logit_lens"]
    if not lenses:
        raise InputError("logit lens: not measured, so there is nothing to draw")
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    unlearned = [model for model in lenses if model.startswith("unlearned")]
    for model, found in lenses.items():
        color, marker, style = model_style(model, unlearned)
        steps = range(len(found["by_layer"]))
        low, high = zip(*found["intervals"], strict=True)
        axes.fill_between(steps, low, high, color=color, alpha=0.12, linewidth=0)
        label = results["labels"][model].replace("$", r"\$")
        axes.plot(steps, found["by_layer"], style, color=color, marker=marker, label=label, clip_on=False, zorder=3)
    axes.axhline(0.5, color="black", linestyle="--", linewidth=1, label="chance")
    axes.set(xlabel="block whose output is decoded", ylabel="the true answer beats another one\n(share of forget rows)")
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Logit lens: where inside the model is the answer known?", fontsize=_FONT + 2)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=_FONT)
    return saved(figure, path)


def _grid(modules: Mapping[str, Mapping[str, Any]], side: str, kinds: list[str], blocks: int) -> np.ndarray:
    """(blocks, kinds); NaN where a block has no such map."""
    grid = np.full((blocks, len(kinds)), np.nan)
    for name, sums in modules.items():
        block, _, kind = name.partition(".")
        grid[int(block), kinds.index(kind)] = sums[side]
    return grid


def _draw(axes: Axes, grid: np.ndarray, scale: Normalize, numbered: bool) -> AxesImage:
    image = axes.imshow(
        np.ma.masked_invalid(grid), cmap=colormaps["cividis"], norm=scale, aspect="auto", origin="lower"
    )
    axes.set_facecolor("#F2F2F2")  # where a block has no such map
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=_FONT - 1)
    if numbered:
        digits = max(0, 2 - math.floor(math.log10(scale.vmax)))
        for (row, column), value in np.ndenumerate(grid):
            if not np.isnan(value):
                ink = "white" if scale(value) < 0.55 else "black"
                text = number_words(value, digits) if digits <= 5 else f"{value:.0e}"
                axes.text(column, row, text, ha="center", va="center", fontsize=_FONT - 2, color=ink)
    return image


def model_style(model: str, unlearned: list[str]) -> tuple[str, str, str]:
    """Color, marker and line of a model; unlearned ones differ by their place among these."""
    if model in unlearned:
        return METHOD_STYLES[unlearned.index(model) % len(METHOD_STYLES)]
    kind = model.partition("_")[0]
    return COLORS[kind], MARKERS[kind], "-" if model == kind else ":"


def saved(figure: Figure, path: str | Path) -> Figure:
    """Write a figure, whose folder is made, and return it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})  # the same results make the same file
    return figure
