"""The one table that answers "erased, or only hidden?": every score beside its two reference points."""

import math
import re
from statistics import fmean, stdev
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

MODELS = ("original", "oracle", "unlearned")
ATTACKS = {"adversarial_reinjection": "reinjection", "benign_relearning": "benign tuning"}
_ATTACK_TITLES = ("after\nreinjection", "after benign\ntuning")  # any wider, and all columns need more than 80
_FORGET = ("forget_exact_match", "forget_probability")
_RETAIN = ("retain_exact_match", "retain_probability")
_OPTIONAL = {"forget_rouge_l": "ROUGE-L", "forget_truth_ratio": "truth\nratio"}
_PAIR = "match prob."  # heads two numbers of five characters each: one column of pairs is narrower than two columns


def print_results(results: dict[str, Any], console: Console | None = None) -> None:
    """Print the contents of a `results.json` as one table, at most 80 columns wide."""
    # a narrower terminal wraps whole lines, which stays readable; columns squeezed to fit would lose digits
    console = console or Console(width=max(Console().width, 80))
    console.print(results_table(results))


def results_table(results: dict[str, Any]) -> Table:
    """The table of `print_results`: a row per model, a column per judged set, footnotes for what is missing."""
    scores = {model: model_entries(results["scores"], model) for model in MODELS}
    attacks = {attack: results.get("attacks", {}).get(attack, {}) for attack in ATTACKS}
    optional = [key for key in _OPTIONAL if any(_values(entries, key) for entries in scores.values())]

    table = Table(
        title=f"{results['method']}, seed {results['seed']}: erased, or only hidden?",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
        pad_edge=False,
    )
    table.add_column("\n\nmodel", no_wrap=True)
    titles = [f"\nforget\n{_PAIR}", *(f"forget\n{_OPTIONAL[key]}" for key in optional), f"\nretain\n{_PAIR}"]
    for title in [*titles, *(f"{words}\n{_PAIR}" for words in _ATTACK_TITLES)]:
        table.add_column(title, justify="right", no_wrap=True)
    missing = False
    for model in MODELS:
        cells = [_cell(scores[model], *_FORGET), *(_cell(scores[model], key) for key in optional)]
        cells += [_cell(scores[model], *_RETAIN)]
        cells += [_cell(model_entries(by_model, model), *_FORGET) for by_model in attacks.values()]
        table.add_row(model, *cells)
        missing |= any("-" in cell.split() for cell in cells)
    table.caption = "\n".join(_footnotes(scores, attacks, missing))
    return table


def model_entries(by_model: dict[str, Any], model: str) -> list[dict[str, Any]]:
    """What was measured for a model: no entry, one, or several (further oracles are `oracle_1`, `oracle_2`, ...)."""
    return [entry for name, entry in by_model.items() if re.fullmatch(rf"{model}(_\d+)?", name) and entry]


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


def _footnotes(scores: dict[str, list], attacks: dict[str, dict], missing: bool) -> list[str]:
    notes = ["match: exact match; prob.: mean answer probability; both from 0 to 1."]
    if any(attacks.values()):
        notes.append("after an attack: forget facts, the highest value along the relearning curve.")
    if len(scores["oracle"]) > 1:
        notes.append(f"oracle: mean and ± standard deviation of {len(scores['oracle'])} oracles.")
    if missing:
        notes.append("-: not measured.")
    if not scores["oracle"]:
        notes.append("no oracle: train one or give its path; without it the level of true erasure is unknown.")
    if absent := [words for attack, words in ATTACKS.items() if not attacks[attack]]:
        notes.append(f"not run: {', '.join(absent)}; until then low scores may only be hidden knowledge.")
    return notes
