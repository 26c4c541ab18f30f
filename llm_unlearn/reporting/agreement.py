"""Does the counterfactual control say what the oracle says? Both, for every run of a robustness benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from llm_unlearn.examining.evidence import KNOWLEDGE
from llm_unlearn.examining.results import model_names
from llm_unlearn.examining.verdict import MARGIN
from llm_unlearn.reporting.figures import COLORS, MARKERS, METHOD_STYLES


def agreement(runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any] | None:
    """Excess over the oracle beside the control's excess, both after reinjection, in mean answer probability.

    Args:
        runs: results and verdict of every run; all with the same references.

    Returns:
        `runs`: for each {method, seed, oracle, oracle_interval, oracle_flagged, control, control_interval,
        control_flagged}, and "knowledge" likewise (excess over 0.5) where it was measured; `references`: the control of
        the original and of each oracle, {model, control, control_interval}; `spearman` over the runs (None for fewer
        than three); `flagged`: how many runs "both", only the "oracle", only the "control" or "neither" speaks against.
        None where a run lacks one of the two.
    """
    pairs = []
    for results, verdict in runs:
        by_name = {(finding["name"], finding["variant"], finding["score"]): finding for finding in verdict["evidence"]}
        oracle = by_name.get(("adversarial_reinjection", None, "forget_probability"))
        control = by_name.get(("counterfactual_control", "after", "forget_probability"))
        if oracle is None or oracle["excess"] is None or control is None:
            return None
        pair = {"method": results["method"], "seed": results["seed"]}
        for name, finding in (("oracle", oracle), ("control", control)):
            pair |= {
                name: finding["excess"],
                f"{name}_interval": finding["interval"],
                f"{name}_flagged": finding["flagged"],
            }
        # where knowledge was measured, a verdict flags no probability; what the oracle says of it is asked here
        pair["oracle_flagged"] = _speaks_against(oracle)
        known = by_name.get(("adversarial_reinjection", None, KNOWLEDGE))
        if known is not None and known["excess"] is not None:
            pair |= {"knowledge": known["excess"], "knowledge_interval": known["interval"]}
            pair["knowledge_flagged"] = known["flagged"]
        pairs.append(pair)
    controls = runs[0][0]["counterfactual"]
    references = [
        {
            "model": name,
            "control": finding["probability"]["excess"],
            "control_interval": finding["probability"]["interval"],
        }
        for name, finding in controls.items()
        if name in (*model_names(controls, "original"), *model_names(controls, "oracle"))
    ]
    kinds = {(True, True): "both", (True, False): "oracle", (False, True): "control", (False, False): "neither"}
    found = Counter(kinds[pair["oracle_flagged"], pair["control_flagged"]] for pair in pairs)
    correlation = spearmanr([pair["oracle"] for pair in pairs], [pair["control"] for pair in pairs]).statistic
    return {
        "runs": pairs,
        "references": references,
        "spearman": float(correlation) if len(pairs) > 2 and correlation == correlation else None,
        "flagged": {kind: found[kind] for kind in kinds.values()},
    }


def _speaks_against(finding: Mapping[str, Any]) -> bool:
    return finding["erasure"] is not None and finding["lower"] > 0 and finding["erasure"] < 1 - MARGIN


def agreement_table(found: Mapping[str, Any]) -> str:
    """Markdown: a row per reference and run; with knowledge beside them where all runs have it."""
    columns = {"oracle": "excess over the oracle", "control": "excess by the control"}
    if all("knowledge" in finding for finding in found["runs"]):
        columns["knowledge"] = "knowledge above 0.5"
    lines = [f"| model | {' | '.join(columns.values())} |", f"| --- |{' ---: |' * len(columns)}"]
    rows = {finding["model"]: finding for finding in found["references"]}
    rows |= {f"{finding['method']}, seed {finding['seed']}": finding for finding in found["runs"]}
    for name, finding in rows.items():
        cells = [_cell(finding, column) if column in finding else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    flagged = ", ".join(f"{kind} {count}" for kind, count in found["flagged"].items())
    rank = "" if found["spearman"] is None else f"Spearman's rank correlation over the runs: {found['spearman']:.2f}. "
    return "\n".join([*lines, "", f"{rank}Runs that speak against erasure by (`*`): {flagged}.", ""])


def _cell(finding: Mapping[str, Any], name: str) -> str:
    low, high = finding[f"{name}_interval"]
    return f"{finding[name]:.3f} [{low:.3f}, {high:.3f}]" + (" *" if finding.get(f"{name}_flagged") else "")


def agreement_figure(found: Mapping[str, Any], path: str | Path) -> Figure:
    """Draw the control's excess against that over the oracle, a point per run with both intervals; save to `path`."""
    # a Figure of its own: pyplot would keep every figure alive and may ask for a display
    figure = Figure(figsize=(6.4, 5.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axline((0, 0), slope=1, color="gray", linestyle=":", linewidth=1, label="equal")
    axes.axhline(0, color="gray", linewidth=0.6)
    axes.axvline(0, color="gray", linewidth=0.6)
    for number, method in enumerate(dict.fromkeys(finding["method"] for finding in found["runs"])):
        own = [finding for finding in found["runs"] if finding["method"] == method]
        color, marker, _ = METHOD_STYLES[number % len(METHOD_STYLES)]
        spread = {"xerr": _spread(own, "oracle"), "yerr": _spread(own, "control")}
        values = [[finding[name] for finding in own] for name in ("oracle", "control")]
        axes.errorbar(*values, **spread, label=method, color=color, marker=marker, linestyle="none", elinewidth=0.6)
    if own := [finding for finding in found["references"] if finding["model"] != "original"]:
        style = {"color": COLORS["oracle"], "marker": MARKERS["oracle"], "linestyle": "none", "elinewidth": 0.6}
        values = [0.0] * len(own), [finding["control"] for finding in own]  # an oracle has no excess over itself
        axes.errorbar(*values, yerr=_spread(own, "control"), label="oracle", **style)
    axes.set_xlabel("excess over the oracle after reinjection (answer probability)")
    axes.set_ylabel("excess of true over made-up facts (answer probability)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("The control without an oracle, against the oracle", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, metadata={"Software": None})  # the same results make the same file
    return figure


def _spread(runs: Sequence[Mapping[str, Any]], name: str) -> list[list[float]]:
    """What the error bars reach below and above the values."""
    ends = [(finding[name], *finding[f"{name}_interval"]) for finding in runs]
    return [[max(0.0, value - low) for value, low, _ in ends], [max(0.0, high - value) for value, _, high in ends]]
