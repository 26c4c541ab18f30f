"""The one table that answers "erased, or only hidden?": every score beside its two reference points."""

import math
import textwrap
from statistics import fmean, stdev
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llm_unlearn.attacks import attack_label, attack_names, load_attack
from llm_unlearn.examining.results import MODELS, model_entries

_EXPECTED = ("adversarial_reinjection", "benign_relearning")  # without them, nobody knows what is hidden
_HEAD_WIDTH = 12  # any wider, and all columns with two attacks need more than 80
_FORGET = ("forget_exact_match", "forget_probability")
_RETAIN = ("retain_exact_match", "retain_probability")
_OPTIONAL = {"forget_rouge_l": "ROUGE-L", "forget_truth_ratio": "truth\nratio"}
_PAIR = "match prob."  # heads two numbers of five characters each: one column of pairs is narrower than two columns


def print_results(results: dict[str, Any], console: Console | None = None) -> None:
    """Print the contents of a `results.json`, at most 80 columns wide.

    One table; of more than two attacks, a second one.
    """
    # a narrower terminal wraps whole lines, which stays readable; columns squeezed to fit would lose digits
    console = console or Console(width=max(Console().width, 80))
    for table in results_tables(results):
        console.print(table)


def results_tables(results: dict[str, Any]) -> list[Table]:
    """The tables of `print_results`: a row per model, a column per judged set, footnotes for what is missing."""
    scores = {model: model_entries(results["scores"], model) for model in MODELS}
    run = results.get("attacks", {})
    attacks = {name: run[name] for name in attack_names() if run.get(name) and load_attack(name).trains}
    optional = [key for key in _OPTIONAL if any(_values(entries, key) for entries in scores.values())]

    judged = {f"\nforget\n{_PAIR}": [_cell(scores[model], *_FORGET) for model in MODELS]}
    judged |= {f"forget\n{_OPTIONAL[key]}": [_cell(scores[model], key) for model in MODELS] for key in optional}
    judged |= {f"\nretain\n{_PAIR}": [_cell(scores[model], *_RETAIN) for model in MODELS]}
    attacked = {
        f"{_head(attack)}\n{_PAIR}": [_cell(model_entries(by_model, model), *_FORGET) for model in MODELS]
        for attack, by_model in attacks.items()
    }
    tables = [_table(judged), _table(attacked)] if len(attacked) > 2 else [_table(judged | attacked)]
    tables[0].title = escape(f"{results['method']}, seed {results['seed']}: erased, or only hidden?")
    missing = any("-" in cell.split() for cells in (judged | attacked).values() for cell in cells)
    notes = _footnotes(scores, attacks, results.get("not_attacked", {}), missing)
    tables[-1].caption = escape("\n".join(notes))
    return tables


def _head(attack: str) -> str:
    record = load_attack(attack)
    return textwrap.fill(record.heading or f"after {record.label}", _HEAD_WIDTH)


def _table(columns: dict[str, list[str]]) -> Table:
    """A row per model; `columns`: title -> cells."""
    table = Table(
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
        pad_edge=False,
    )
    table.add_column("\n\nmodel", no_wrap=True)
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for row in zip(MODELS, *columns.values(), strict=True):
        table.add_row(*row)
    return table


def _values(entries: list[dict[str, Any]], key: str) -> list[float]:
    found = (entry.get(key) for entry in entries)
    return [value for value in found if value is not None and not math.isnan(value)]


def _cell(entries: list[dict[str, Any]], *keys: str) -> str:
    """The means side by side; below them, where there are several entries, the standard deviations."""
    samples = [_values(entries, key) for key in keys]
    lines = [[f"{fmean(values):.3f}" if values else "-" for values in samples]]
    if any(len(values) > 1 for values in samples):
        # no leading zero: it keeps the column as narrow as the means
        lines.append([f"±{stdev(values):.3f}".replace("0.", ".") if len(values) > 1 else "" for values in samples])
    return "\n".join(" ".join(f"{number:>5}" for number in line) for line in lines)


def _footnotes(
    scores: dict[str, list], attacks: dict[str, dict], not_attacked: dict[str, str], missing: bool
) -> list[str]:
    notes = ["match: exact match; prob.: mean answer probability; both from 0 to 1."]
    if any(attacks.values()):
        notes.append("after an attack: forget facts, the highest value along the relearning curve.")
    steps = {
        attack_label(attack): by_model["unlearned"]["steps_to_half"]
        for attack, by_model in attacks.items()
        if "steps_to_half" in by_model.get("unlearned", {})
    }
    if steps:
        reached = (f"{words} {'never' if step is None else f'after {step} steps'}" for words, step in steps.items())
        notes.append(f"unlearned, back to half of the original's prob.: {', '.join(reached)}.")
    if len(scores["oracle"]) > 1:
        notes.append(f"oracle: mean and ± standard deviation of {len(scores['oracle'])} oracles.")
    if missing:
        notes.append("-: not measured.")
    if not scores["oracle"]:
        notes.append("no oracle: train one or give its path; without it the level of true erasure is unknown.")
    if absent := [attack_label(attack) for attack in _EXPECTED if attack not in attacks]:
        notes.append(f"not run: {', '.join(absent)}; until then low scores may only be hidden knowledge.")
    notes += [f"no {attack_label(attack)}: {reason}." for attack, reason in not_attacked.items()]
    return notes
