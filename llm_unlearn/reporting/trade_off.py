"""What was forgotten against what was kept: one point per model, with the oracle as the target."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from llm_unlearn.errors import InputError
from llm_unlearn.examining.abilities import ability_label
from llm_unlearn.examining.evidence import IGNORANT
from llm_unlearn.examining.price import lowest_of_means, reference_abilities
from llm_unlearn.examining.results import MODELS, model_entries, model_names
from llm_unlearn.reporting.figures import COLORS, MARKERS, METHOD_STYLES, attacks_with_curves
from llm_unlearn.reporting.words import attack_words

AFTER_ATTACK = "unlearned, after an attack"
_COLORS = COLORS | {AFTER_ATTACK: "#CC79A7"}
_MARKERS = MARKERS | {"oracle": "*", AFTER_ATTACK: "D"}
_FONT = 9
_LONGEST_LINE = 30  # characters; longer labels are wrapped

Point = Mapping[str, Any]


def trade_off_figure(
    points: Sequence[Point],
    path: str | Path,
    *,
    title: str = "forgotten, and at what price?",
    forget_label: str = "forget set: mean answer probability (0 = forgotten)",
    retain_label: str = "retain set: mean answer probability (1 = kept)",
    ideal: tuple[float, float] | None = None,
) -> Figure:
    """Draw forget score (x) against retain score, or another price (y); save to `path` and return the figure.

    Args:
        ideal: where whoever never saw the facts and lost nothing stands; default: the mean of the oracles.
        points: each with `label` ("" for none), `forget`, `retain`, `group` (same color and marker, one legend entry;
            "original", "oracle", "unlearned" have theirs) and, optionally, `forget_interval`. Points without one of
            the two scores are left out.

    Raises:
        InputError: no point has both scores.
    """
    points = [point for point in points if point.get("forget") is not None and point.get("retain") is not None]
    if not points:
        raise InputError("trade-off figure: no point has a forget and a retain score; judge the models on a retain set")
    # a Figure of its own: pyplot would keep every figure alive and may ask for a display
    figure = Figure(figsize=(6.4, 5.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    styles = _styles(list(dict.fromkeys(point["group"] for point in points)))
    for point in points:
        color, marker = styles[point["group"]]
        x, y = point["forget"], point["retain"]
        if interval := point.get("forget_interval"):
            axes.plot(interval, [y, y], color=color, linewidth=1.5, marker="|", markersize=6, zorder=2, clip_on=False)
        size = 15 if marker == "*" else 8
        axes.plot(x, y, color=color, marker=marker, markersize=size, markeredgecolor="white", zorder=3, clip_on=False)
    target = _mark_target(axes, points, ideal)
    _name_axes(axes, points, forget_label, retain_label)
    figure.suptitle(title, fontsize=11, parse_math=False)
    _draw_legend(figure, styles, target)
    _place_labels(figure, axes, points)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})  # the same points make the same file
    return figure


def run_trade_off(results: Mapping[str, Any], path: str | Path) -> Figure:
    """The trade-off of a run: original, oracles, unlearned, and unlearned after each relearning attack.

    Where abilities were measured, the price is the share that is left of the ability of which least was kept, which no
    attack measures again: after one, a point keeps the height that the model had before. Elsewhere (older results) it
    is the retain probability, at the step at which the forget facts came back most. Across: knowledge where true
    answers were compared with made-up ones, or else the answer probability.

    Raises:
        InputError: no model has scores on both sets.
    """
    scores, abilities = dict(results.get("scores") or {}), results.get("abilities") or {}
    references = reference_abilities(abilities)
    measured = abilities if references else {}  # what original and oracles cannot do has no price
    forget, axes = trade_off_axes([*scores.values()], measured)
    points = []
    for model in MODELS:
        names = [name for name in model_names(scores, model) if scores[name]]
        for number, name in enumerate(names):
            label = f"{model} (of {len(names)})" if len(names) > 1 else model
            least = lowest_of_means(measured.get(name) or {}, references)
            if model == "unlearned" and least is not None:
                label += f" (least left: {ability_label(least[0])})"
            price = (least and least[1]) if measured else scores[name].get("retain_probability")
            points.append(
                {"label": "" if number else label, "group": model, "forget": scores[name].get(forget), "retain": price}
            )
    unlearned = next((point["retain"] for point in points if point["group"] == "unlearned"), None)
    for attack, by_model in attacks_with_curves(dict(results)).items():
        for entry in model_entries(by_model, "unlearned"):
            best = max(entry["curve"], key=lambda point: point.get("forget_probability", -math.inf))
            price = unlearned if measured else best.get("retain_probability")
            label = f"after {attack_words(attack)}"
            points.append({"label": label, "group": AFTER_ATTACK, "forget": best.get(forget), "retain": price})
    return trade_off_figure(
        points, path, title=f"{results.get('method', 'run')}: forgotten, and at what price?", **axes
    )


def trade_off_axes(scores: Sequence[Mapping[str, Any]], measured: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The score across, and the arguments of `trade_off_figure` that say what both axes show.

    Args:
        scores: of all models. measured: model -> abilities; empty in older results.
    """
    knows = bool(scores) and all("forget_knowledge" in one for one in scores)
    axes: dict[str, Any] = {}
    if knows:
        axes["forget_label"] = "knowledge of the forget facts (1 = known, 0.5 = ignorant, 0 = avoided)"
    if measured:
        axes["retain_label"] = "left of the ability that lost most"
    if knows:
        axes["ideal"] = (IGNORANT, 1.0)
    return "forget_knowledge" if knows else "forget_probability", axes


def _styles(groups: list[str]) -> dict[str, tuple[str, str]]:
    others = [group for group in groups if group not in _COLORS]
    given = {group: METHOD_STYLES[i % len(METHOD_STYLES)][:2] for i, group in enumerate(others)}
    return {group: given.get(group) or (_COLORS[group], _MARKERS[group]) for group in groups}


def _mark_target(axes: Axes, points: Sequence[Point], ideal: tuple[float, float] | None) -> str | None:
    """Cross hairs at the ideal, or else at the mean of the oracles; returns what they are, if there are any."""
    oracles = [point for point in points if point["group"] == "oracle"]
    if ideal is None and not oracles:
        return None
    x, y = ideal or (fmean(point["forget"] for point in oracles), fmean(point["retain"] for point in oracles))
    style = {"color": COLORS["oracle"], "linestyle": ":", "linewidth": 1.5, "zorder": 1}
    axes.axvline(x, **style)
    axes.axhline(y, **style)
    return "ignorant, and nothing lost: the target" if ideal else "the oracle's level: the target"


def _name_axes(axes: Axes, points: Sequence[Point], forget_label: str, retain_label: str) -> None:
    """Zero to one on both axes, so that small differences look small; further where scores go further."""
    axes.set_xlabel(forget_label, parse_math=False)
    axes.set_ylabel(retain_label, parse_math=False)
    xs = [x for point in points for x in (point["forget"], *(point.get("forget_interval") or ()))]
    axes.set_xlim(min(0, *xs), max(1, *xs))
    axes.set_ylim(min(0, *(p["retain"] for p in points)), max(1, *(p["retain"] for p in points)))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_legend(figure: Figure, styles: Mapping[str, tuple[str, str]], target: str | None) -> None:
    handles = []
    for group, (color, marker) in styles.items():
        size, label = 13 if marker == "*" else 8, textwrap.fill(group, _LONGEST_LINE)
        handles.append(Line2D([], [], linestyle="none", color=color, marker=marker, markersize=size, label=label))
    if target is not None:
        handles.append(Line2D([], [], color=COLORS["oracle"], linestyle=":", label=target))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=_FONT)
    for text in legend.get_texts():
        text.set_parse_math(False)


# ---- labels ----------------------------------------------------------------------------------------------------------


def _place_labels(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Write each label at the nearest free place around its point, with a thin line to it."""
    figure.draw_without_rendering()  # constrained layout moves the axes, and places are in pixels
    figure.set_layout_engine("none")
    unit = figure.dpi / 72
    taken = [_around(*axes.transData.transform((p["forget"], p["retain"])), 7 * unit) for p in points]
    for point in points:
        if point.get("forget_interval"):
            ends = axes.transData.transform([(x, point["retain"]) for x in point["forget_interval"]])
            taken.append(Bbox([ends[0] - 4 * unit, ends[1] + 4 * unit]))
    labels: list[Bbox] = []
    for point in points:
        if point["label"]:
            label, line = _place_label(axes, point, taken, labels, unit)
            labels.append(label)
            taken += [label, *line]


def _around(x: float, y: float, radius: float) -> Bbox:
    return Bbox([[x - radius, y - radius], [x + radius, y + radius]])


def _place_label(
    axes: Axes, point: Point, taken: list[Bbox], labels: list[Bbox], unit: float
) -> tuple[Bbox, list[Bbox]]:
    """Returns the boxes of the label and, in small pieces, of the line to it."""
    anchor = (point["forget"], point["retain"])
    text = axes.annotate(
        textwrap.fill(point["label"], _LONGEST_LINE),
        anchor,
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=_FONT,
        va="center",
        ha="center",
        parse_math=False,
        arrowprops={"arrowstyle": "-", "color": "gray", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 5},
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
    )
    renderer = axes.figure.canvas.get_renderer()
    own = Text.get_window_extent(text, renderer)  # without the line
    center, size = axes.transData.transform(anchor), (own.width + 6 * unit, own.height + 4 * unit)
    room = axes.get_window_extent(renderer)
    places = []
    for x, y in _offsets(size, unit):
        box = Bbox.from_bounds(center[0] + x - size[0] / 2, center[1] + y - size[1] / 2, *size)
        inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
        if inside and not any(box.overlaps(other) for other in taken):
            line = [_around(center[0] + x * part / 20, center[1] + y * part / 20, unit) for part in range(20)]
            crossed = any(piece.overlaps(other) for piece in line for other in labels)
            places.append((crossed, len(places), (x / unit, y / unit), box, line))
            if not crossed:
                break
    if not places:  # so many points that no place is free: a label over others is better than none
        return own, []
    *_, offset, box, line = min(places)  # a line over another label, where there is no other way
    text.set_position(offset)
    return box, line


def _offsets(size: tuple[float, float], unit: float) -> Iterator[tuple[float, float]]:
    """Places around a point, in pixels: the nearest first, and at each distance to the right and below first."""
    for distance in range(10, 220, 12):
        for angle in (0, 180, 270, 90, 315, 225, 45, 135, 292, 248, 337, 203, 8, 172):
            x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            yield x * (distance * unit + size[0] / 2), y * (distance * unit + size[1] / 2)
