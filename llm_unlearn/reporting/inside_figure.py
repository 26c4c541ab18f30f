"""Inside the models of a run in a picture: what is left, block by block, a panel for each audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llm_unlearn.errors import InputError
from llm_unlearn.examining.inside import aligned_numbers
from llm_unlearn.examining.results import model_entries
from llm_unlearn.reporting.figures import COLORS, MARKERS
from llm_unlearn.reporting.influence_figure import saved

Json = Mapping[str, Any]
Lines = dict[str, list[list[float]]]  # original, oracle, unlearned -> a line over blocks for each such model


def inside_figure(results: Json, path: str | Path) -> Figure:
    """Each audit over the blocks: the original, the unlearned model, and oracles as a band from lowest to highest.

    In every panel the original and a model that never knew are what the unlearned one has to be compared with.

    Raises:
        InputError: nothing was looked for inside.
    """
    audits = results.get("audits") or {}
    panels = [(title, label, lines) for title, label, of in _PANELS if (lines := of(audits)).get("unlearned")]
    if not panels:
        raise InputError("audits: none was made of the unlearned model, so there is nothing to draw")
    figure = Figure(figsize=(max(5.4, 3.7 * len(panels)), 4.1), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for place, (title, label, lines) in zip(axes, panels, strict=True):
        _draw(place, lines)
        place.set_title(title, fontsize=10)
        place.set(xlabel="after block", ylabel=label)
    named = {text: handle for place in axes for handle, text in zip(*place.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named, loc="outside lower center", ncols=len(named), frameon=False, fontsize=9)
    figure.suptitle("What is still inside?", fontsize=11)
    return saved(figure, path)


def _probes(audits: Json) -> Lines:
    return _lines(audits.get("probes"), lambda found: [layer["forgotten"] for layer in found["layers"]])


def _depth(audits: Json) -> Lines:
    return _with_ends(_lines(audits.get("depth"), lambda found: found["by_layer"]))


def _consistency(audits: Json) -> Lines:
    def along(found: Json) -> list[float]:
        return aligned_numbers(found)["forget_consistency"]["by_layer"]

    both = dict(audits.get("consistency_ceiling") or {}) | dict(audits.get("consistency") or {})
    return _with_ends(_lines(both, along))


_PANELS: Sequence[tuple[str, str, Callable[[Json], Lines]]] = (
    ("Values read off (probes)", "right about forgotten people", _probes),
    ("Unlearning depth", "UDS", _depth),
    ("Retrain consistency", "consistency on forget rows", _consistency),
)


def _lines(by_model: Json | None, along: Callable[[Json], Sequence[float | None]]) -> Lines:
    found = {}
    for name in ("original", "oracle", "unlearned"):
        lines = [along(entry) for entry in model_entries(dict(by_model or {}), name)]
        found[name] = [[float("nan") if value is None else value for value in line] for line in lines]
    return {name: lines for name, lines in found.items() if lines}


def _with_ends(lines: Lines) -> Lines:
    """Of audits that compare with the first oracle, which has 1, and the original, which has 0."""
    if "unlearned" not in lines:
        return {}
    blocks = len(lines["unlearned"][0])
    return {"original": [[0.0] * blocks], "oracle": [[1.0] * blocks]} | lines


def _draw(axes: Axes, lines: Lines) -> None:
    for name, found in lines.items():
        blocks = range(len(found[0]))
        columns = [*zip(*found, strict=True)]
        if len(found) > 1:
            low, high = ([end(column) for column in columns] for end in (min, max))
            axes.fill_between(blocks, low, high, color=COLORS[name], alpha=0.25, linewidth=0)
        means = [sum(column) / len(column) for column in columns]
        label = "oracles (band: range)" if len(found) > 1 else name
        axes.plot(blocks, means, color=COLORS[name], marker=MARKERS[name], label=label, clip_on=False, zorder=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), max(1.0, axes.get_ylim()[1]))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
