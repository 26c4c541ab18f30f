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
from rich import box
from rich.console import Console
from rich.table import Table

from llm_unlearn.errors import InputError
from llm_unlearn.metrics.intervals import percentile_interval, resampled_difference
from llm_unlearn.reporting.agreement import agreement, agreement_figure, agreement_table
from llm_unlearn.reporting.evidence import LEAK, comparison, control_differences, forget_values, label_of
from llm_unlearn.reporting.heat_map import attack_heat_map
from llm_unlearn.reporting.methods_figure import methods_recovery_figure
from llm_unlearn.reporting.tables import model_names
from llm_unlearn.reporting.trade_off import trade_off_figure

_MAIN_ATTACKS = ("adversarial_reinjection", "benign_relearning")
_SCORES = ("forget_probability", "forget_exact_match", LEAK)


def report_robustness(folder: str | Path, console: Console | None = None) -> dict[str, Any]:
    """Write summary.json, table.md and the figures of a robustness benchmark, print its table, return the summary.

    Raises:
        InputError: the folder has no robustness.json, or a run's folder is gone.
    """
    folder = Path(folder)
    found = _read(folder / "robustness.json")
    folders = [run_folder(folder, run["method"], run["seed"]) for run in found["runs"]]
    runs = [_read_run(one) for one in folders]
    agreed = agreement([(run[0], _read(one / "verdict.json")) for run, one in zip(runs, folders, strict=True)])
    summary = summarize_robustness(found, runs) | {"agreement": agreed}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "table.md").write_text(markdown_tables(summary), encoding="utf-8")
    _write_figures(summary, found, [results for results, _ in runs], folder)
    if agreed is not None:
        (folder / "control.md").write_text(agreement_table(agreed), encoding="utf-8")
        agreement_figure(agreed, folder / "control.png")
    console = console or Console(width=max(Console().width, 150), highlight=False)
    console.print(main_table(summary))
    console.print(f"\nEverything is in {folder}/: table.md, PNG figures, and runs/*/report.html", soft_wrap=True)
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
        {name, variant, label, score, value, interval, original, oracle, excess, excess_interval, erasure}, control:
        {before, after: {excess, interval}}}; `controls`: how much more a control recovers than the method that it is a
        control of, {control, method, attack, difference, interval}; `references`: the same of original and oracles,
        without excess.
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
            evidence = comparison(values, groups, unlearned=unlearned)
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
            "seeds": [run["seed"] for run in its_runs],
            "steps": fmean(run["steps"] for run in its_runs),
            "reached": sum(run["reached"] for run in its_runs),
            "retain_exact_match": fmean(retained) if retained else None,
            "verdicts": dict(Counter(run["verdict"] for run in its_runs)),
            "seconds": fmean(run["seconds"] for run in its_runs),
            "scores": scores,
            "control": _control([runs[i][0].get("counterfactual", {}).get("unlearned") for i in own], units),
        }
    controls = []
    for control in (name for name in methods if found["chosen"][name].get("control_of")):
        method = found["chosen"][control]["control_of"]
        for attack in _MAIN_ATTACKS:
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


def _references(found: Mapping[str, Any], values: Mapping, units: list[int]) -> dict[str, Any]:
    references = {}
    for model in ("original", "oracle"):
        names = model_names(found["references"]["scores"], model)
        if not names:
            continue
        scores = []
        for (name, variant, score), by_model in values.items():
            if all(one in by_model for one in names):
                value, resampled = resampled_difference(np.stack([by_model[one] for one in names]), None, units)
                scores.append({"name": name, "variant": variant, "label": label_of(name, variant), "score": score})
                scores[-1] |= {"value": value, "interval": percentile_interval(resampled)}
        judged = [found["references"]["scores"][one] for one in names]
        retained = [one["retain_exact_match"] for one in judged if "retain_exact_match" in one]
        outcomes = [found["references"].get("counterfactual", {}).get(one) for one in names]
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
        parts[part]["by_model"] = [float(np.nanmean(one)) for one in differences]
    return parts


# ---- tables ----------------------------------------------------------------------------------------------------------


def main_table(summary: Mapping[str, Any]) -> Table:
    """A row per method: the scores that everybody asks for first."""
    table = Table(title="erased, or only hidden?", title_justify="left", caption=_CAPTION, caption_justify="left")
    table.box, table.show_edge = box.SIMPLE_HEAD, False
    header, rows = _main_cells(summary)
    for number, title in enumerate(header):
        table.add_column(title, justify="left" if number == 0 else "right", no_wrap=number != len(header) - 1)
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    return table


_CAPTION = (
    "match / probability of facts that no attack taught, 95 % intervals over people and seeds; control: true minus "
    "made-up facts"
)


def markdown_tables(summary: Mapping[str, Any]) -> str:
    """The table per method, and one of all attacks with their variants (mean answer probability, excess)."""
    header, rows = _main_cells(summary)
    lines = [_line(header), _line(["---"] + ["---:"] * (len(header) - 1)), *map(_line, rows), "", _CAPTION + ".", ""]
    for one in summary["controls"]:
        words = f"{one['control']} recovers {_with_interval(one, 'difference', 'interval')} more than {one['method']}"
        lines += [f"{words} after {label_of(one['attack'], None)} (answer probability).", ""]
    columns = {"original": "references", "oracle": "references"} | dict.fromkeys(summary["methods"], "methods")
    columns = {name: kind for name, kind in columns.items() if name in summary[kind]}
    lines += [_line(["score after each attack", *columns]), _line(["---"] + ["---:"] * len(columns))]
    for key in _keys(summary):
        found = [_score(summary[kind][name], key) for name, kind in columns.items()]
        label = f"{key[2]} ({'leak@64' if key[1] == LEAK else 'probability'})"
        lines.append(_line([label, *(_with_interval(one, "value", "interval") for one in found)]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("\n", " ") for cell in cells) + " |"


def _main_cells(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    attacks = [name for name in _MAIN_ATTACKS if any(key[0] == (name, None) for key in _keys(summary))]
    header = ["method", "rate", "steps", "retain\nmatch", "forget"]
    header += [{"adversarial_reinjection": "reinjection", "benign_relearning": "benign tuning"}[one] for one in attacks]
    header += ["excess over oracle\n(reinjection)", "control excess", "verdicts"]
    rows = []
    for name, one in (*summary["references"].items(), *summary["methods"].items()):
        is_method = name in summary["methods"]
        cells = [name if is_method or one["models"] == 1 else f"{name} ({one['models']})"]
        cells += [f"{one['learning_rate']:.2g}", f"{one['steps']:.0f}"] if is_method else ["", ""]
        cells.append("-" if one["retain_exact_match"] is None else f"{one['retain_exact_match']:.3f}")
        cells += [_pair(one, (attack, None)) for attack in ("output", *attacks)]
        probability = _score(one, (("adversarial_reinjection", None), "forget_probability", ""))
        cells.append(_with_interval(probability, "excess", "excess_interval") if is_method else "")
        cells.append(_with_interval(one["control"] and one["control"]["after"], "excess", "interval"))
        verdicts = one.get("verdicts", {})
        cells.append(", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()))
        rows.append(cells)
    return header, rows


Key = tuple[tuple[str, str | None], str, str]  # (attack, variant), score, label


def _keys(summary: Mapping[str, Any]) -> list[Key]:
    """All scores but exact matches, in their order."""
    scores = next(iter(summary["methods"].values()))["scores"]
    return [
        ((one["name"], one["variant"]), one["score"], one["label"])
        for one in scores
        if one["score"] in ("forget_probability", LEAK)
    ]


def _score(method: Mapping[str, Any], key: Key) -> Mapping[str, Any] | None:
    wanted = (*key[0], key[1])
    return next((one for one in method["scores"] if (one["name"], one["variant"], one["score"]) == wanted), None)


def _pair(method: Mapping[str, Any], attack: tuple[str, None]) -> str:
    match, probability = (_score(method, (attack, score, "")) for score in ("forget_exact_match", "forget_probability"))
    return f"{match['value']:.2f} / {probability['value']:.2f}" if match and probability else "-"


def _with_interval(one: Mapping[str, Any] | None, value: str, interval: str) -> str:
    if one is None or one.get(value) is None:
        return "-"
    return f"{one[value]:.2f} [{one[interval][0]:.2f}, {one[interval][1]:.2f}]"


# ---- figures ---------------------------------------------------------------------------------------------------------


def _write_figures(summary: Mapping[str, Any], found: Mapping[str, Any], runs: Sequence[dict], folder: Path) -> None:
    methods, keys = summary["methods"], [key for key in _keys(summary) if key[0][0] != "adapter_surgery"]
    if any(one["excess"] is not None for method in methods.values() for one in method["scores"]):
        cells = {name: [_score(method, key) or {} for key in keys] for name, method in methods.items()}
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
    references = found["references"]["scores"]
    points = [
        {"label": model if name == model else "", "group": model} | _trade_off(scores)
        for model in ("original", "oracle")
        for name, scores in references.items()
        if name in model_names(references, model)
    ]
    points += [{"label": "", "group": run["method"]} | _trade_off(run["scores"]) for run in found["runs"]]
    if any(point["retain"] is not None for point in points):
        trade_off_figure(points, folder / "trade_off.png", title="Before any attack: forgotten, and at what price?")
    methods_recovery_figure(found["references"]["attacks"], runs, folder / "recovery.png")


def _trade_off(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {"forget": scores["forget_probability"], "retain": scores.get("retain_probability")}


def _read_run(folder: Path) -> tuple[dict, dict]:
    records = {path.stem: _read(path) for path in sorted((folder / "records").glob("*.json"))}
    return _read(folder / "results.json"), records


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); start benchmarks/robustness.py again") from error
