"""What a search for settings tried, and what it found: in the terminal and as CSV."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llm_unlearn.examining.abilities import STYLE_WORDS, ability_label
from llm_unlearn.examining.left import KNOWN, PROBABLE

_LONGEST_LINE = 26  # characters of a style's or an ability's words
_CAPTIONS = {
    KNOWN: "how often the true answer is likelier than made-up ones of its kind",
    PROBABLE: "mean probability of the true answer, which confuses knowledge with confidence (no two forgotten facts "
    "are of one kind, so there is nothing to compare true answers with)",
}
COLUMNS = (
    *("method", "trial", "best", "name", "seed", "stopped_by", "diverged", "steps", "seconds"),
    *("score", "trial_reached", "trial_value", "trial_excess", "trial_style", "trial_kept", "trial_lowest_ability"),
    *("forget_exact_match", "forget_probability", "forget_knowledge", "retain_exact_match", "retain_probability"),
)


class Space(Protocol):
    """`runs.search_space.Space`."""

    values: Mapping[str, Any]

    @property
    def settings(self) -> list: ...


def trial_words(trial: Mapping[str, Any], score: str) -> str:
    """A trial, as `runs.trials.summed_up` has it, in a line.

    Args:
        score: by which trials are judged: knowledge or probability.
    """
    if trial["diverged"]:
        return f"diverged after {trial['steps']:.0f} steps"
    reached = "stopped" if trial["reached"] else "did not reach the stopping score"
    left = f"{score} {trial['value']:.2f} ({STYLE_WORDS[trial['style']]}), {trial['excess']:.2f} from ignorance"
    kept = f"keeps {100 * trial['kept']:.0f} % ({ability_label(trial['lowest_ability'])})"
    return f"{reached} after {trial['steps']:.0f} steps, {left}, {kept}"


def tuning_table(found: Mapping[str, Any]) -> Table:
    """A row per method, with its best trial."""
    table = Table(
        title="best setting of each method, on seeds that are not reported", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.caption_justify = "left"
    score = found["references"]["score"]
    table.caption = (
        f"{score}: {_CAPTIONS[score]}, before any attack, in the style of asking that is farthest from ignorance; from "
        "ignorance: the mean distance over styles from the oracles' (of knowledge, without one, from 0.50), above or "
        "below; kept: of the weakest of original and oracles, the lowest ability"
    )
    for title in ("method", "trials", "best setting", score, "from ignorance", "kept", "steps", "reached"):
        right = title in ("trials", "from ignorance", "steps")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for name, method in found["methods"].items():
        trials = f"{len(method['trials'])} of {method['settings']}"
        if method["best"] is None:
            table.add_row(escape(name), trials, method["why"])
            continue
        best = method["trials"][method["best"]]
        setting = "\n".join(escape(f"{field} {value}") for field, value in best["setting"].items())
        left = _filled(best["value"], ".2f", STYLE_WORDS[best["style"]])
        kept = _filled(100 * best["kept"], ".0f", ability_label(best["lowest_ability"]), " %")
        kept += f"\n[bold]no trial kept {100 * found['least_kept']:g} %[/]" * (best["kept"] < found["least_kept"])
        steps, reached = f"{best['steps']:.0f}", "yes" if best["reached"] else "no"
        table.add_row(escape(name), trials, setting, left, f"{best['excess']:.2f}", kept, steps, reached)
    return table


def _filled(value: float, form: str, words: str, unit: str = "") -> str:
    return textwrap.fill(f"{value:{form}}{unit} ({words})", _LONGEST_LINE)


def print_tuning(found: Mapping[str, Any], folder: Path) -> None:
    """The table, why each was chosen, and the command that compares what was chosen."""
    console = Console(highlight=False, width=max(Console().width, 150))
    console.print(tuning_table(found))
    for name, method in found["methods"].items():
        tried, settings = len(method["trials"]), method["settings"]
        whole = f"all {settings} settings that there are" if tried == settings else f"{tried} settings"
        gone = sum(trial["diverged"] for trial in method["trials"])
        words = f"{name}: {whole} were tried" + (f", {gone} diverged" if gone else "") + f"; {method['why']}"
        console.print(words, markup=False, soft_wrap=True)
    print_left_out(found["left_out"])
    (first, *_) = found["methods"].values()
    seeds = [run["seed"] for run in first["trials"][0]["runs"]]
    others = f"on other seeds than {', '.join(map(str, seeds))}"
    console.print(f"\nFor the comparison, with the same other flags, {others}:", soft_wrap=True)
    for method in found["methods"].values():
        if method["best"] is not None:
            console.print(f"  {method['trials'][method['best']]['name']}", markup=False, soft_wrap=True)
    command = f"llm-unlearn run robustness --methods $(cat {folder}/best_methods.txt)"
    console.print(f"\n{command}\n\nEverything is in {folder}/: tune.json, tune.csv", markup=False, soft_wrap=True)


def print_left_out(left_out: Mapping[str, str]) -> None:
    """Methods that cannot be trained here, and why."""
    for name, why in left_out.items():
        Console(highlight=False).print(f"left out: {name}: {why}", markup=False, soft_wrap=True)


def print_spaces(
    spaces: Mapping[str, Space], drawn: Mapping[str, Mapping[str, Any]], left_out: Mapping[str, str], seeds: int
) -> None:
    """What a search would try: each method's space, how many settings that are, and those that are drawn.

    Args:
        drawn: method -> name of a trial -> its setting. left_out: method -> why.
    """
    console = Console(highlight=False)
    for name, trials in drawn.items():
        space, settings = spaces[name], len(spaces[name].settings)
        tried = "all of which" if len(trials) == settings else f"of which {len(trials)}"
        lines = ["", f"{name}: {settings} settings, {tried} are tried"]
        lines += [f"  {field}: {', '.join(map(str, values))}" for field, values in space.values.items()]
        lines += [f"    {trial}" + " (its defaults)" * (not number) for number, trial in enumerate(trials)]
        console.print("\n".join(lines), markup=False, soft_wrap=True)
    print_left_out(left_out)
    runs = seeds * sum(map(len, drawn.values()))
    console.print(f"\n{len(drawn)} methods, {runs} trainings", markup=False, soft_wrap=True)


def tuning_csv(found: Mapping[str, Any]) -> str:
    """A row for every training."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for name, method in found["methods"].items():
        for number, trial in enumerate(method["trials"]):
            of_trial = {f"trial_{key}": value for key, value in trial.items() if f"trial_{key}" in COLUMNS}
            shown = {"method": name, "trial": number, "best": number == method["best"], "name": trial["name"]}
            for run in trial["runs"]:
                scores = {key: value for key, value in run.get("scores", {}).items() if key in COLUMNS}
                shown["score"] = found["references"]["score"]
                own = {key: run[key] for key in ("seed", "stopped_by", "diverged", "steps", "seconds")}
                writer.writerow({**shown, **of_trial, **scores, **own})
    return text.getvalue()
