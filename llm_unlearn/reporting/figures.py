"""How fast the unlearned facts come back: the curves of the relearning attacks."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from llm_unlearn.attacks import load_attack
from llm_unlearn.errors import InputError
from llm_unlearn.examining.results import MODELS, model_entries

# Okabe-Ito: told apart with every kind of color blindness; the markers serve black-and-white prints
COLORS = {"original": "#0072B2", "oracle": "#009E73", "unlearned": "#D55E00"}
MARKERS = {"original": "o", "oracle": "s", "unlearned": "^"}
# The rest of Okabe-Ito, then gray for what follows; markers and dashes tell apart what colors cannot.
METHOD_STYLES = (
    ("#D55E00", "^", "-"),
    ("#CC79A7", "v", "-"),
    ("#E69F00", "P", "-"),
    ("#56B4E9", "X", "-"),
    ("#000000", "D", "-"),
    ("#D55E00", "<", ":"),
    ("#CC79A7", ">", ":"),
    ("#E69F00", "d", ":"),
    ("#56B4E9", "h", ":"),
    ("#000000", "*", ":"),
)
STYLES = {"forget_probability": "-", "forget_exact_match": "--"}


def recovery_figure(results: dict[str, Any], path: str | Path) -> Figure:
    """Draw forget probability and exact match against relearning steps, a panel per attack; save to `path`.

    Attacks without steps, such as quantization, have no curve and are left out.

    Raises:
        InputError: no attack has a curve.
    """
    attacks = attacks_with_curves(results)
    if not attacks:
        raise InputError(
            "attacks: the results hold none with a curve, so there is no recovery to draw; run at least one attack "
            "that trains"
        )
    # a Figure of its own: pyplot would keep every figure alive and may ask for a display
    columns = min(len(attacks), 2)
    rows = -(-len(attacks) // columns)
    figure = Figure(figsize=(max(6.6, 1.6 + 4.4 * columns), 1.2 + 3.4 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for unused in panels[len(attacks) :]:
        unused.remove()
    banded = [_draw_panel(axes, attack, attacks[attack]) for axes, attack in zip(panels, attacks, strict=False)]
    several_oracles = any(len(model_entries(by_model, "oracle")) > 1 for by_model in attacks.values())
    for axes in grid[:, 0]:
        axes.set_ylabel("mean answer probability, exact match\nof facts never reinjected")

    drawn = [model for model in MODELS if any(model_entries(by_model, model) for by_model in attacks.values())]
    title = f"{results.get('method', 'run')}, seed {results.get('seed')}: do the unlearned facts come back?"
    if "oracle" not in drawn:
        title += "\n(no oracle: the level of true erasure is unknown)"
    figure.suptitle(title, parse_math=False)  # a folder's name may be a method's, and is no formula
    figure.legend(
        handles=list(_legend_handles(drawn, any(banded), several_oracles)),
        loc="outside lower center",
        ncols=max(len(drawn), 3 if any(banded) else 2),
        frameon=False,
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})  # the same results make the same file
    return figure


def attacks_with_curves(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Attack -> model -> outcome, of the outcomes that have a curve over relearning steps."""
    attacks = {
        attack: {model: entry for model, entry in (by_model or {}).items() if entry and entry.get("curve")}
        for attack, by_model in results.get("attacks", {}).items()
    }
    return {attack: by_model for attack, by_model in attacks.items() if by_model}


def _draw_panel(axes: Axes, attack: str, by_model: dict[str, Any]) -> bool:
    """Draw one attack; return whether any model has runs that differ, shown as a band."""
    banded = False
    for model in MODELS:
        entries = model_entries(by_model, model)
        for key, style in STYLES.items():
            means = _by_step([entry["curve"] for entry in entries], key)
            runs = _by_step([curve for entry in entries for curve in _strongest_runs(entry)], key)
            if not means:
                continue
            if any(len(set(values)) > 1 for values in runs.values()):
                lowest, highest = [min(values) for values in runs.values()], [max(values) for values in runs.values()]
                # the oracle's band is what the others are read against: darker, and with an outline
                alpha, width = (0.3, 1.0) if model == "oracle" else (0.15, 0.0)
                axes.fill_between(list(runs), lowest, highest, color=COLORS[model], alpha=alpha, linewidth=width)
                banded = True
            axes.plot(
                list(means),
                [fmean(values) for values in means.values()],
                linestyle=style,
                color=COLORS[model],
                marker=MARKERS[model],
                markersize=5,
                markerfacecolor=COLORS[model] if style == "-" else "white",
                label=f"{model} {key}",
                clip_on=False,  # values of exactly 0 and 1 are common; their markers must not be cut in half
                zorder=3,
            )
    axes.set(title=load_attack(attack).title, xlabel="relearning optimizer steps", ylim=(0, 1))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return banded


def _strongest_runs(entry: dict[str, Any]) -> Iterator[list[dict[str, float]]]:
    """The curves of the runs that `curve` is the mean of; weaker attackers and learning rates are not its spread.

    Where the runs were not kept, it stands for them: several oracles still differ.
    """
    for run in entry.get("runs") or [entry]:
        if all(run.get(name) == entry.get(name, run.get(name)) for name in ("attacker", "learning_rate")):
            yield run["curve"]


def _by_step(curves: list[list[dict[str, float]]], key: str) -> dict[int, list[float]]:
    """Step -> the values there, for the steps that all curves share."""
    tables = [{point["step"]: point[key] for point in curve if key in point} for curve in curves]
    shared = set.intersection(*(set(table) for table in tables)) if tables else set()
    return {step: [table[step] for table in tables] for step in sorted(shared)}


def _legend_handles(models: list[str], banded: bool, several_oracles: bool) -> Iterator[Line2D | Patch]:
    """The models in the upper row, what the lines mean in the lower; a legend fills its columns from top to bottom."""
    upper = [Line2D([], [], color=COLORS[model], marker=MARKERS[model], label=model) for model in models]
    lower: list[Line2D | Patch] = [
        Line2D([], [], color="black", linestyle="-", label="answer probability"),
        Line2D([], [], color="black", linestyle="--", label="exact match"),
    ]
    if banded:
        words = "range of the runs (and oracles)" if several_oracles else "range of the runs"
        lower.append(Patch(color="gray", alpha=0.3, label=words))
    for pair in zip_longest(upper, lower):
        for handle in pair:
            yield handle or Line2D([], [], linestyle="none", label=" ")
