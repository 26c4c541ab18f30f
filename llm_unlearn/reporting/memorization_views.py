"""Exact memorization and what its proxies say, in the terminal and in a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from llm_unlearn.reporting.planning_figures import saved
from llm_unlearn.reporting.words import NOTHING, number_words

_LEVELS = {  # in words, color, marker, and where it stands beside the others
    "rows": ("over rows", "#0072B2", "o", 0.2),
    "rows_of_a_kind": ("over rows, less their kind's mean", "#009E73", "s", 0.0),
    "people": ("over people", "#D55E00", "^", -0.2),
}


def correlation_words(found: Mapping[str, Any]) -> str:
    """A correlation with its interval: "0.52 [0.31, 0.68]"."""
    if found["value"] is None or found["interval"] is None:
        return number_words(found["value"], 2)
    low, high = (number_words(end, 2) for end in found["interval"])
    return f"{number_words(found['value'], 2)} [{low}, {high}]"


def correlations_table(found: Mapping[str, Any]) -> Table:
    """A row for each proxy, and one for how far the exact values agree with themselves."""
    table = Table(
        title="Spearman's rank correlation with exact memorization", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("proxy")
    for words, *_ in _LEVELS.values():
        table.add_column(words, justify="right")
    table.caption_justify = "left"
    table.caption = (
        "In brackets 95 % over people. Confidence over training: low passes for memorized, so below 0 is as foretold. "
        "Half against half: exact values of every second pair of trainings with those of the others; where that is r, "
        "no proxy can be expected above sqrt(2r / (1 + r))"
    )
    for name, levels in found["correlations"].items():
        table.add_row(name, *(correlation_words(levels[level]) for level in _LEVELS))
    return table


def print_memorization(found: Mapping[str, Any], folder: Path) -> None:
    """The table, how exact the exact values are, and where the rest is."""
    console = Console(highlight=False, width=max(Console().width, 110))
    probability, by_person = found["probability"], found["exact"]["by_person"]
    values = sorted(one["value"] for one in by_person)
    errors = sorted(one["standard_error"] for one in by_person if one["standard_error"] is not None)
    words = f"answer probability of a row: {probability['with']:.3f} by trainings with its person, "
    words += f"{probability['without']:.3f} without, {probability['original']:.3f} by the original, "
    words += f"{probability['original_retrained']:.3f} by it after held-out retraining"
    console.print(words, markup=False, soft_wrap=True)
    words = f"exact memorization of {len(values)} people by {found['trainings']} trainings: {values[0]:.3f} to "
    middle = number_words(errors[len(errors) // 2]) if errors else NOTHING
    console.print(f"{words}{values[-1]:.3f}, standard error {middle} (median)\n", markup=False, soft_wrap=True)
    console.print(correlations_table(found))
    console.print(f"\nEverything is in {folder}/: memorization.json, memorization.png", markup=False, soft_wrap=True)


def memorization_figure(found: Mapping[str, Any], path: Path) -> Figure:
    """People from little to well memorized, with two standard errors; and every proxy's correlations.

    Args:
        found: as `runs.memorization.memorization` returns it.
    """
    figure = Figure(figsize=(10.5, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    ordered = sorted(found["exact"]["by_person"], key=lambda one: one["value"])
    values, errors = ([one[name] for one in ordered] for name in ("value", "standard_error"))
    places = range(1, len(ordered) + 1)
    left.errorbar(
        places, values, yerr=[2 * (error or 0) for error in errors], fmt="o", color="#009E73", ecolor="#999999"
    )
    left.set(title="exact memorization, and two standard errors", xlabel="people, in order")
    left.set_ylabel("answer probability, with less without")
    names = [*found["correlations"]]
    for level, (words, color, marker, shift) in _LEVELS.items():
        right.plot([], [], marker, color=color, label=words)
        for number, name in enumerate(reversed(names)):
            one = found["correlations"][name][level]
            if one["value"] is None:
                continue
            right.plot([one["value"]], [number + shift], marker, color=color)
            if one["interval"] is not None:
                right.plot(one["interval"], [number + shift] * 2, color=color, linewidth=1)
    right.axvline(0, color="black", linestyle="--", linewidth=1)
    right.set(title="Spearman's correlation with it", xlim=(-1.02, 1.02))
    right.set_yticks(range(len(names)), names[::-1])
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return saved(figure, path)
