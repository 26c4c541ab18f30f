"""Methods against attacks: the table of a robustness benchmark, with intervals over people and seeds, and its figures.

All of it is made from robustness.json and the run folders beside it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console

from llm_unlearn.examining.evidence import (
    KNOWLEDGE,
    comparison,
    control_differences,
    forget_values,
    knowledge_comparison,
    label_of,
)
from llm_unlearn.examining.fluency import FLUENCY
from llm_unlearn.examining.price import abilities, lost_abilities, lowest_of_means, lowest_share, reference_abilities
from llm_unlearn.examining.results import model_names, read_run, read_verdict
from llm_unlearn.files.run_files import read_json
from llm_unlearn.metrics.intervals import percentile_interval, resampled_difference
from llm_unlearn.reporting.agreement import agreement, agreement_figure, agreement_table
from llm_unlearn.reporting.heat_map import attack_heat_map
from llm_unlearn.reporting.methods_figure import methods_recovery_figure
from llm_unlearn.reporting.robustness_table import MAIN_ATTACKS, keys_of, main_table, markdown_tables, score_of
from llm_unlearn.reporting.trade_off import trade_off_axes, trade_off_figure

AGAIN = "start benchmarks/robustness.py again"


def report_robustness(folder: str | Path, console: Console | None = None) -> dict[str, Any]:
    """Write summary.json, table.md and the figures of a robustness benchmark, print its table, return the summary.

    Raises:
        InputError: the folder has no robustness.json, or a run's folder is gone.
    """
    folder = Path(folder)
    found = read_json(folder / "robustness.json", AGAIN)
    folders = [run_folder(folder, run["method"], run["seed"]) for run in found["runs"]]
    runs = [_read_run(finding) for finding in folders]
    verdicts = [read_verdict(finding, run[0], AGAIN) for run, finding in zip(runs, folders, strict=True)]
    agreed = agreement([(run[0], verdict) for run, verdict in zip(runs, verdicts, strict=True)])
    # They may have been made anew since, by `llm-unlearn report`.
    named = zip(found["runs"], verdicts, strict=True)
    found = found | {"runs": [run | {"verdict": verdict["verdict"]} for run, verdict in named]}
    summary = summarize_robustness(found, runs) | {"agreement": agreed}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "table.md").write_text(markdown_tables(summary), encoding="utf-8")
    _write_figures(summary, found, [results for results, _ in runs], folder)
    if agreed is not None:
        (folder / "control.md").write_text(agreement_table(agreed), encoding="utf-8")
        agreement_figure(agreed, folder / "control.png")
    console = console or Console(width=max(Console().width, 150), highlight=False)
    console.print(main_table(summary))
    console.print(
        f"\nEverything is in {folder}/: table.md, PNG figures, and runs/*/report.html", markup=False, soft_wrap=True
    )
    return summary


def run_folder(folder: Path, method: str, seed: int) -> Path:
    """Where a reported run lies; a method's name may fix fields: `ssiuu:regularizer_weight=30`."""
    return folder / "runs" / f"{method.replace(':', '-')}-seed{seed}"


def summarize_robustness(found: Mapping[str, Any], runs: Sequence[tuple[dict, dict]]) -> dict[str, Any]:
    """Means over seeds, with 95 % intervals over people, unlearning seeds, oracles and attack seeds.

    Args:
        found: the contents of robustness.json.
        runs: results and records of each of its runs, in their order.

    Returns:
        `methods`: name -> {learning_rate, why, steps, reached, retain_exact_match, verdicts, seconds, scores: a list of
        {name, variant, label, score, value, interval, original, oracle, excess, excess_interval, erasure} (of
        "forget_knowledge" the excess is over 0.5), abilities: {ability: {score: {value, share, interval (of the
        share), lost}}}, lowest: {ability, label, score, share} or None, lost: the abilities that are surely lost,
        control: {before, after: {excess, interval}}}; `controls`: how much more a control recovers than the method
        that it is a control of, {control, method, attack, difference, interval}; `references`: the same of original
        and oracles, without excess and price.
    """
    methods = list(dict.fromkeys(run["method"] for run in found["runs"]))
    measured = [forget_values(results, records) for results, records in runs]
    groups = runs[0][0]["forget_groups"]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    units = [numbers[group] for group in groups]
    summary = {}
    for method in methods:
        own = [i for i, run in enumerate(found["runs"]) if run["method"] == method]
        its_runs = [found["runs"][i] for i in own]
        scores = []
        for key, values in measured[own[0]].items():
            if "unlearned" not in values:
                continue
            unlearned = [measured[i][key]["unlearned"] for i in own]
            compare = knowledge_comparison if key[2] == KNOWLEDGE else comparison
            evidence = compare(values, groups, unlearned=unlearned)
            scores.append(
                {"name": key[0], "variant": key[1], "label": label_of(key[0], key[1]), "score": key[2]}
                | {"value": evidence.unlearned, "interval": evidence.unlearned_interval, "original": evidence.original}
                | {"oracle": evidence.oracle, "excess": evidence.excess, "excess_interval": evidence.interval}
                | {"erasure": evidence.erasure}
            )
        retained = [run["retain_exact_match"] for run in its_runs if run["retain_exact_match"] is not None]
        summary[method] = {
            "learning_rate": its_runs[0]["learning_rate"],
            "why": found["chosen"][method]["why"],
            "fixed": found["chosen"][method].get("fixed", {}),  # benchmarks of an earlier version do not say it
            "seeds": [run["seed"] for run in its_runs],
            "steps": fmean(run["steps"] for run in its_runs),
            "reached": sum(run["reached"] for run in its_runs),
            "retain_exact_match": fmean(retained) if retained else None,
            "verdicts": dict(Counter(run["verdict"] for run in its_runs)),
            "seconds": fmean(run["seconds"] for run in its_runs),
            "scores": scores,
            **_price(runs[own[0]], [runs[i][1]["unlearned"] for i in own]),
            "control": _control([runs[i][0].get("counterfactual", {}).get("unlearned") for i in own], units),
        }
    controls = []
    for control in (name for name in methods if found["chosen"][name].get("control_of")):
        method = found["chosen"][control]["control_of"]
        for attack in MAIN_ATTACKS:
            key = (attack, None, "forget_probability")
            sides = [
                np.stack(
                    [measured[i][key]["unlearned"] for i, run in enumerate(found["runs"]) if run["method"] == name]
                )
                for name in (control, method)
                if key in measured[0]
            ]
            if sides:
                difference, resampled = resampled_difference(*sides, units)
                controls.append({"control": control, "method": method, "attack": attack, "difference": difference})
                controls[-1]["interval"] = percentile_interval(resampled)
    return {"methods": summary, "controls": controls, "references": _references(found, measured[0], units)}


def _price(run: tuple[dict, dict], unlearned: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a method costs, over its seeds; older results have no abilities but the retained facts."""
    evidence = [finding for finding in abilities(*run, unlearned=unlearned) if finding.name != FLUENCY]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for finding in evidence:
        own = {"value": finding.unlearned, "share": finding.share, "interval": None, "lost": finding.flagged}
        if finding.share is not None:
            reference = finding.unlearned - finding.excess
            own["interval"] = [1 + end / reference for end in finding.interval]
        found.setdefault(finding.name, {})[finding.score] = own
    least = lowest_share(evidence)
    lowest = least and {"ability": least.name, "label": least.label, "score": least.score, "share": least.share}
    return {"abilities": found, "lowest": lowest, "lost": [finding.name for finding in lost_abilities(evidence)]}


def _references(found: Mapping[str, Any], values: Mapping, units: list[int]) -> dict[str, Any]:
    references = {}
    for model in ("original", "oracle"):
        names = model_names(found["references"]["scores"], model)
        if not names:
            continue
        scores = []
        for (name, variant, score), by_model in values.items():
            if all(finding in by_model for finding in names):
                rows = np.stack([by_model[finding] for finding in names])
                drawn = np.repeat(units, rows.shape[2] // len(units))  # knowledge has several comparisons of a row
                value, resampled = resampled_difference(rows, None, drawn)
                scores.append({"name": name, "variant": variant, "label": label_of(name, variant), "score": score})
                scores[-1] |= {"value": value, "interval": percentile_interval(resampled)}
        judged = [found["references"]["scores"][finding] for finding in names]
        retained = [finding["retain_exact_match"] for finding in judged if "retain_exact_match" in finding]
        outcomes = [found["references"].get("counterfactual", {}).get(finding) for finding in names]
        references[model] = {
            "models": len(names),
            "retain_exact_match": fmean(retained) if retained else None,
            "scores": scores,
            "control": _control(outcomes, units),
        }
    return references


def _control(outcomes: Sequence[Mapping[str, Any] | None], units: list[int]) -> dict[str, Any] | None:
    """Mean excess of true over made-up facts; the interval draws models, attack seeds and people."""
    if not outcomes or not all(outcomes):
        return None
    parts = {}
    for part, after in (("before", False), ("after", True)):
        differences = np.stack([control_differences(outcome, len(units), after) for outcome in outcomes])
        excess, resampled = resampled_difference(differences, None, units)
        parts[part] = {"excess": excess, "interval": percentile_interval(resampled)}
        parts[part]["by_model"] = [float(np.nanmean(finding)) for finding in differences]
    return parts


# ---- figures ---------------------------------------------------------------------------------------------------------


def _write_figures(summary: Mapping[str, Any], found: Mapping[str, Any], runs: Sequence[dict], folder: Path) -> None:
    methods, keys = summary["methods"], [key for key in keys_of(summary) if key[0][0] != "adapter_surgery"]
    if any(finding["excess"] is not None for method in methods.values() for finding in method["scores"]):
        cells = {name: [score_of(method, key) or {} for key in keys] for name, method in methods.items()}
        attack_heat_map(
            [key[2] for key in keys],
            list(methods),
            [[cells[name][row].get("excess") for name in methods] for row in range(len(keys))],
            folder / "heat_map.png",
            title="What each attack brings back beyond the oracle: means over seeds",
            colorbar_label="excess over the oracle in mean answer probability (decoding: in leak@64)",
            vmin=-1.0,
            vmax=1.0,
            diverging=True,
            intervals=[[cells[name][row].get("excess_interval") for name in methods] for row in range(len(keys))],
        )
    references, measured = found["references"]["scores"], found["references"].get("abilities") or {}
    least = reference_abilities(measured)
    measured = measured if least else {}  # what original and oracles cannot do has no price
    judged = [*references.values(), *(run["scores"] for run in found["runs"])]
    forget, axes = trade_off_axes(judged, measured)

    def point(group: str, label: str, scores: Mapping[str, float], own: Mapping[str, Any] | None) -> dict[str, Any]:
        lowest = lowest_of_means(own or {}, least)
        price = (lowest and lowest[1]) if measured else scores.get("retain_probability")
        return {"label": label, "group": group, "forget": scores.get(forget), "retain": price}

    points = [
        point(model, model if name == model else "", scores, measured.get(name))
        for model in ("original", "oracle")
        for name, scores in references.items()
        if name in model_names(references, model)
    ]
    for run, results in zip(found["runs"], runs, strict=True):
        points.append(point(run["method"], "", run["scores"], (results.get("abilities") or {}).get("unlearned")))
    if any(finding["retain"] is not None for finding in points):
        title = "Before any attack: forgotten, and at what price?"
        trade_off_figure(points, folder / "trade_off.png", title=title, **axes)
    methods_recovery_figure(found["references"]["attacks"], runs, folder / "recovery.png")


def _read_run(folder: Path) -> tuple[dict, dict]:
    return read_run(folder, AGAIN)
