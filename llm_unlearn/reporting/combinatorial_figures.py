"""The combinatorial laboratory in pictures: weights with their codes, recovery curves, codes kept against recovery."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from llm_unlearn.reporting.combinatorial_table import LABELS
from llm_unlearn.reporting.figures import COLORS, MARKERS, METHOD_STYLES

_SHOWN_WEIGHTS = ("original", "gradient_ascent", "relabel", "attribution", "distill_fresh", "oracle")
_OF_ANOTHER_START = ("distill_fresh",)  # its neurons are not the original's
_CURVES = ("oracle", "gradient_ascent", "npo", "task_vector", "relabel", "distill_warm", "distill_fresh", "attribution")
_METHODS = [name for name in LABELS if name not in ("original", "oracle", "other_oracle")]
_TITLES = {"target": "on target rows", "all": "on all clauses", "unrelated": "on unrelated clauses"}
_FONT = 9


def codes_figure(results: Mapping[str, Any], path: str | Path) -> Figure:
    """W1 of the first seed, neurons in rows and inputs in columns, the target clause first; its code is framed.

    Neurons are normalized to |w2| = 1 and those that speak against a positive answer stand below the line. Rows of all
    networks that started as the original are in the original's order.
    """
    weights = results["weights"]
    clauses = np.array(weights["clauses"])
    literals = clauses.shape[1]
    columns = [*clauses.flatten(), *sorted(set(range(clauses.max() + 1)) - set(clauses.flatten()))]
    figure = _figure((10.5, 7.6))
    panels = figure.subplots(2, 3, sharex=True)
    matrices = {name: _normalized(weights["models"][name], columns) for name in _SHOWN_WEIGHTS}
    largest = np.quantile(np.abs(matrices["original"][0]), 0.995)
    shared_order = _order(*matrices["original"], literals)
    for axes, (name, (w1, sign)) in zip(panels.flat, matrices.items(), strict=True):
        order = _order(w1, sign, literals) if name in _OF_ANOTHER_START else shared_order
        image = axes.imshow(w1[order], cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
        # as `combinatorial.read_off.codes`
        in_code = ((w1[:, :literals].min(1) > np.abs(w1).mean()) & (sign > 0))[order]
        for row in np.flatnonzero(in_code):
            axes.add_patch(Rectangle((-0.5, row - 0.5), literals, 1, fill=False, edgecolor="black", linewidth=1.2))
        changed = np.flatnonzero(np.diff(sign[order] > 0))
        if len(changed) == 1:
            axes.axhline(changed[0] + 0.5, color="black", linewidth=0.6)
        for clause in range(1, len(clauses)):
            axes.axvline(clause * literals - 0.5, color="gray", linewidth=0.4)
        found = results["models"][name]["target_true_positive_rate"]["value_by_index"]
        rate = next(iter(found.values()))
        axes.set_title(f"{LABELS[name]}\ntarget TPR {rate:.2f}, code of {in_code.sum()}", fontsize=_FONT)
        axes.tick_params(labelsize=_FONT - 2)
        axes.set_yticks([])
    middles = [clause * literals + (literals - 1) / 2 for clause in range(len(clauses))]
    for axes in panels[1]:
        axes.set_xticks(middles, ["target", *map(str, range(1, len(clauses)))])
        axes.set_xlabel("inputs by clause", fontsize=_FONT)
    for axes in panels[:, 0]:
        axes.set_ylabel("hidden neurons", fontsize=_FONT)
    bar = figure.colorbar(image, ax=panels, fraction=0.03, pad=0.01)
    bar.set_label("weight, neuron normalized to |w2| = 1", fontsize=_FONT)
    bar.ax.tick_params(labelsize=_FONT - 2)
    figure.suptitle("Codes of the target clause (framed), before and after unlearning it", fontsize=_FONT + 2)
    return _saved(figure, path)


def recovery_figure(results: Mapping[str, Any], path: str | Path) -> Figure:
    """The target's true positive rate against steps of fine-tuning, a panel for what is fine-tuned on; medians."""
    figure = _figure((10.5, 4.2))
    panels = figure.subplots(1, len(_TITLES), sharey=True)
    for axes, (kind, title) in zip(panels, _TITLES.items(), strict=True):
        for name in _CURVES:
            curve = results["curves"][kind][name]
            color, marker, style = _style(name)
            steps = range(1, len(curve["median"]) + 1)  # shifted by one: the axis is logarithmic
            axes.plot(
                steps, curve["median"], style, color=color, marker=marker, markevery=0.15, markersize=5, linewidth=1.3,
                label=LABELS[name] if axes is panels[0] else None,
            )  # fmt: skip
            if name == "oracle":
                axes.fill_between(steps, curve["lowest"], curve["highest"], color=color, alpha=0.12, linewidth=0)
        axes.axhline(0.8, color="black", linestyle="--", linewidth=0.8)
        axes.set(xscale="log", ylim=(0, 1.02), xlabel="step of fine-tuning (1 = before)")
        axes.set_title(title, fontsize=_FONT + 1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("target rows called positive (median)")
    figure.suptitle("How fast the unlearned clause comes back", fontsize=_FONT + 2)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=_FONT)
    return _saved(figure, path)


def keep_figure(results: Mapping[str, Any], path: str | Path) -> Figure:
    """Each network: which share of the target's code it kept, and how many steps brought the target back."""
    models, cap = results["models"], results["config"]["laboratory"]["recovery_steps"]
    figure = _figure((7.2, 4.8))
    axes = figure.subplots()
    oracle = _values(models["oracle"], "recovery_target", cap)
    axes.axhspan(min(oracle), max(oracle), color=COLORS["oracle"], alpha=0.15, label="oracle (never knew)")
    for number, name in enumerate(_METHODS):
        color, marker, _ = _style(name)
        kept, steps = _values(models[name], "keep", np.nan), _values(models[name], "recovery_target", cap)
        # codes have few neurons, so that many points would coincide
        shift = (number - len(_METHODS) / 2) * 0.006
        style = {"color": color, "marker": marker, "label": LABELS[name]}
        axes.scatter(np.array(kept) + shift, steps, s=26, alpha=0.75, linewidths=0, **style)
    axes.set(yscale="log", xlabel="keep: share of the code's neurons that are still in it", xlim=(-0.06, 1.06))
    axes.set_ylabel("steps until the target is back")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Codes that are left, and how fast the target comes back", fontsize=_FONT + 2)
    figure.legend(loc="outside right center", frameon=False, fontsize=_FONT - 1)
    return _saved(figure, path)


def regularizer_figure(results: Mapping[str, Any], path: str | Path) -> Figure:
    """Codes kept, strength and recovery by the weight of the attribution regularizer, beside its shuffled control."""
    cap = results["config"]["laboratory"]["recovery_steps"]
    panels_of = {
        "keep": "keep",
        "strength_over_null": "strength of the code over null",
        "recovery_target": "steps until the target is back",
    }
    figure = _figure((10.5, 3.9))
    panels = figure.subplots(1, len(panels_of))
    weights = list(results["regularizer"]["attribution"])
    places = range(len(weights) + 1)
    for axes, (what, words) in zip(panels, panels_of.items(), strict=True):
        first = axes is panels[0]
        for kind in ("attribution", "attribution_shuffled"):
            found = [results["models"]["npo"], *results["regularizer"][kind].values()]
            color, marker, style = _style(kind)
            middle, low, high = (
                [_number(one[what][key] if at is None else one[what][key][at], cap) for one in found]
                for key, at in (("agg_value", None), ("interval", 0), ("interval", 1))
            )
            axes.plot(places, middle, style, color=color, marker=marker, label=LABELS[kind] if first else None)
            remembered = [place for place, one in zip(places, found, strict=True) if _remembers(one)]
            axes.plot(remembered, [middle[place] for place in remembered], marker, color="white", mec=color, zorder=3)
            axes.fill_between(places, low, high, color=color, alpha=0.12, linewidth=0)
        oracle = _number(results["models"]["oracle"][what]["agg_value"], cap)
        axes.axhline(oracle, color=COLORS["oracle"], linestyle="--", linewidth=1, label="oracle" if first else None)
        axes.set_xticks(places, ["0 (NPO)", *weights])
        axes.set_xlabel("weight of the regularizer")
        axes.set_ylabel(words)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    title = "Does the attribution regularizer erase codes? Medians and their intervals (hollow: target not forgotten)"
    figure.suptitle(title, fontsize=_FONT + 2)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=_FONT)
    return _saved(figure, path)


def _remembers(model: Mapping[str, Any]) -> bool:
    """Whether a method gave up before the target was forgotten, in the median."""
    return model["target_true_positive_rate"]["agg_value"] > 0.5


def _normalized(weights: Mapping[str, Any], columns: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """W1 with columns in the given order and |w2| = 1, and the sign of w2."""
    w1, w2 = np.array(weights["w1"]), np.array(weights["w2"])
    return (w1 * np.abs(w2)[:, None])[:, columns], np.sign(w2)


def _order(w1: np.ndarray, sign: np.ndarray, literals: int) -> np.ndarray:
    """Neurons for a positive answer first, and of these the ones that the target excites most."""
    return np.lexsort((-w1[:, :literals].min(1), sign < 0))


def _style(name: str) -> tuple[str, str, str]:
    if name == "oracle":
        return COLORS["oracle"], MARKERS["oracle"], "-"
    return METHOD_STYLES[_METHODS.index(name) % len(METHOD_STYLES)]


def _values(model: Mapping[str, Any], what: str, missing: float) -> list[float]:
    return [missing if value is None else value for value in model[what]["value_by_index"].values()]


def _number(value: float | None, missing: float) -> float:
    return missing if value is None else value


def _figure(size: tuple[float, float]) -> Figure:
    # a Figure of its own: pyplot would keep every figure alive and may ask for a display
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _saved(figure: Figure, path: str | Path) -> Figure:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})  # the same results make the same file
    return figure
