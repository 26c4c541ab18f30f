"""A table of numbers as colored cells: attacks against models, or attacks against methods."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

from llm_unlearn.errors import InputError
from llm_unlearn.examining.results import MODELS, model_entries
from llm_unlearn.reporting.words import NOTHING, attack_words, number_words, scores_by_variant, variant_words

# Okabe-Ito's blue and orange: told apart with every kind of color blindness, and zero is white
DIVERGING = LinearSegmentedColormap.from_list("blue-white-orange", ["#0072B2", "#FFFFFF", "#D55E00"])
_LONGEST_LINES = (34, 18)  # characters; longer labels of rows and of columns are wrapped
_FONT = 9
_CELL_HEIGHT = 0.36  # inches
_SCORES = ("forget_probability", "forget_leak_at_64")  # the first that an attack has is drawn

Cells = Sequence[Sequence[float | None]]
Intervals = Sequence[Sequence[tuple[float, float] | None]]


def attack_heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Cells,
    path: str | Path,
    *,
    title: str,
    colorbar_label: str,
    vmin: float | None = 0.0,
    vmax: float | None = 1.0,
    diverging: bool = False,
    intervals: Intervals | None = None,
) -> Figure:
    """Draw `values[row][column]` as annotated cells; save to `path` and return the figure.

    Args:
        values: None where nothing was measured: a hatched cell with a dash.
        vmin: value of the first color; None: the smallest value. vmax: likewise of the last color.
        diverging: blue - white - orange, for values around zero such as an excess; where a limit is None, zero is in
            the middle. Otherwise cividis, dark to bright.
        intervals: of the same shape, written below the values.

    Raises:
        InputError: there is no number at all, or a row has not one value for each column.
    """
    numbers = np.array([[_number(value) for value in row] for row in values], dtype=float)
    if numbers.shape != (len(rows), len(columns)) or np.isnan(numbers).all():
        raise InputError(
            f"heat map {title!r}: {len(rows)} rows and {len(columns)} columns need a value for each cell, and at least "
            f"one that is not None; got an array of shape {numbers.shape}"
        )
    scale, colors = _scale(numbers, vmin, vmax, diverging), DIVERGING if diverging else colormaps["cividis"]
    labels = [
        [textwrap.fill(label, longest) for label in side]
        for side, longest in zip((rows, columns), _LONGEST_LINES, strict=True)
    ]
    height = _CELL_HEIGHT * (1.5 if intervals else 1)
    height = max(height, 0.17 * max(label.count("\n") + 1 for label in labels[0]) + 0.1)
    width = max(0.9 if intervals else 0.65, *(_inches(label) + 0.15 for label in labels[1]))
    body = (width * len(columns), max(height * len(rows), 1.6))  # the color bar and its label need some room
    total = body[0] + max(_inches(label) for label in labels[0]) + 1.5
    title = textwrap.fill(title, max(16, int(total / _inches("n" * 20, 11) * 20)))
    above = 0.22 * (title.count("\n") + 1) + 0.16 * max(label.count("\n") + 1 for label in labels[1])
    # a Figure of its own: pyplot would keep every figure alive and may ask for a display
    figure = Figure(figsize=(total, body[1] + above + 0.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(numbers), cmap=colors, norm=scale, aspect="auto")
    _label_axes(axes, *labels)
    for row in range(len(rows)):
        for column in range(len(columns)):
            interval = intervals[row][column] if intervals else None
            _annotate(axes, row, column, numbers[row, column], interval, colors, scale)
    # names of methods and columns come from users: a dollar sign is no formula
    figure.suptitle(title, fontsize=11, parse_math=False)
    share = max(0.05, 0.2 / body[0])
    bar = figure.colorbar(image, ax=axes, pad=0.1 / body[0], fraction=share, aspect=body[1] / 0.15)
    lines = max(20, int(body[1] / _inches("n" * 20) * 20))
    bar.set_label(textwrap.fill(colorbar_label, lines), fontsize=_FONT)
    bar.ax.tick_params(labelsize=_FONT - 1)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})  # the same values make the same file
    return figure


def run_heat_map(results: Mapping[str, Any], path: str | Path) -> Figure:
    """Models (columns) against attacks with their variants (rows): the mean answer probability on the forget facts.

    Decoding has no probability of its own; its cells are the share of answers that leak in 64 samples.

    Raises:
        InputError: the results hold no score.
    """
    scores = dict(results.get("scores") or {})
    rows = [("before any attack", {model: model_entries(scores, model) for model in MODELS})]
    attacks = results.get("attacks") or {}
    for attack, by_model in attacks.items():
        for variant, scores in scores_by_variant(by_model or {}).items():
            label = attack_words(attack) + (f": {variant_words(variant)}" if variant else "")
            rows.append((label, {model: model_entries(scores, model) for model in MODELS}))
    values = [[_mean(entries[model]) for model in MODELS] for _, entries in rows]
    kept = [number for number, row in enumerate(values) if any(value is not None for value in row)]
    shown = [number for number, model in enumerate(MODELS) if any(values[row][number] is not None for row in kept)]
    return attack_heat_map(
        [rows[row][0] for row in kept],
        [MODELS[column] for column in shown],
        [[values[row][column] for column in shown] for row in kept],
        path,
        title=f"{results.get('method', 'run')}: how well each attack brings back the forget facts",
        colorbar_label="mean answer probability (0 to 1)"
        + (f"; {attack_words('decoding')}: share leaked" if attacks.get("decoding") else ""),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _mean(entries: list[Mapping[str, Any]]) -> float | None:
    """The mean over models of the first score that any of them has."""
    for score in _SCORES:
        found = [entry[score] for entry in entries if entry.get(score) is not None]
        if found:
            return fmean(found)
    return None


def _scale(numbers: np.ndarray, vmin: float | None, vmax: float | None, diverging: bool) -> Normalize:
    if diverging and (vmin is None or vmax is None):
        largest = float(np.nanmax(np.abs(numbers))) or 1.0
        return Normalize(-largest, largest)
    low = float(np.nanmin(numbers)) if vmin is None else vmin
    high = float(np.nanmax(numbers)) if vmax is None else vmax
    return Normalize(low, high if high > low else low + 1)


def _inches(text: str, size: float = _FONT) -> float:
    """The width of the widest line."""
    lines = [line for line in text.replace("$", "S").split("\n") if line.strip()]
    return max((TextPath((0, 0), line, size=size).get_extents().width for line in lines), default=0.0) / 72


def _label_axes(axes: Axes, rows: list[str], columns: list[str]) -> None:
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(columns)), columns, fontsize=_FONT, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, fontsize=_FONT, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks([number - 0.5 for number in range(1, len(columns))], minor=True)
    axes.set_yticks([number - 0.5 for number in range(1, len(rows))], minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)


def _annotate(
    axes: Axes,
    row: int,
    column: int,
    value: float,
    interval: tuple[float, float] | None,
    colors: Colormap,
    scale: Normalize,
) -> None:
    if math.isnan(value):
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor="#F2F2F2", edgecolor="#BBBBBB", hatch="///", linewidth=0))
        axes.text(column, row, NOTHING, ha="center", va="center", fontsize=_FONT + 1, color="black")
        return
    text = number_words(value, 2)
    if interval is not None:
        text += "\n[{}, {}]".format(*(number_words(end, 2) for end in interval))
    ink = _readable_on(colors(scale(value)))
    axes.text(column, row, text, ha="center", va="center", fontsize=_FONT, color=ink)


def _readable_on(background: tuple[float, float, float, float]) -> str:
    """Black or white, whichever contrasts more with a color (WCAG's relative luminance)."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in background[:3])
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"
