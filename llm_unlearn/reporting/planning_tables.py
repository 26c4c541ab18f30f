"""What a plan found, and what requests did one after the other, in the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from llm_unlearn.examining.abilities import ability_label
from llm_unlearn.planning.forecast import ALL
from llm_unlearn.planning.hardness import mean_of_groups
from llm_unlearn.planning.requests import of_earlier
from llm_unlearn.reporting.words import number_words

MOST_SHOWN = 20  # conflicts in the terminal; plan.json has all
_WHAT = {
    "gain over the base": "memorization: answer probability of the original less that of models never taught the row",
    "margin over made-up answers": "memorization: probability of the true answer less that of made-up ones",
    "answer probability": "memorization: answer probability alone, which confuses knowledge with ease",
}


def _table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def groups_table(found: Mapping[str, Any], score: str) -> Table:
    """A row for each group by one score, low first."""
    numbers = ("people or facts", "rows", "lowest", "mean", "highest")
    table = _table(f"groups by {score}", "group", *numbers, right=numbers)
    for group, one in mean_of_groups(found, score).items():
        values = [number_words(one[name]) for name in ("lowest", "mean", "highest")]
        table.add_row(group, str(one["units"]), str(one["rows"]), *values)
    return table


def conflicts_table(found: Mapping[str, Any]) -> Table:
    """The first conflicts, a row each."""
    conflicts = found["conflicts"]
    counts = ", ".join(f"{count} {kind}" for kind, count in Counter(one["kind"] for one in conflicts).items())
    shown = f"; the first {MOST_SHOWN}, all in plan.json" if len(conflicts) > MOST_SHOWN else ""
    rows = ("forget row", "row")
    table = _table(f"conflicts: {counts}{shown}", "forget row", "set", "row", "what", "differs in", right=rows)
    for one in conflicts[:MOST_SHOWN]:
        differs = ", ".join(one["differs"])
        table.add_row(str(one["forget_row"]), one["other_set"], str(one["other_row"]), one["kind"], differs)
    return table


def gaps_table(found: Mapping[str, Any]) -> Table:
    """What is missing, with what cannot be judged for it."""
    table = _table("missing, and what cannot be judged without it", "missing", "so", "fix")
    for gap in found["gaps"]:
        table.add_row(gap["missing"], gap["effect"], gap["fix"])
    return table


def forecast_table(found: Mapping[str, Any]) -> Table:
    """A row for each method: how long it will take, and what it will leave of the weakest ability.

    Args:
        found: as `runs.plan.forecast_of`.
    """
    table = _table("forecast by recorded runs of the same world and model; in brackets 80 %", "method", "settings")
    for column in ("steps", "kept of the lowest ability", "runs that reached the stopping scores"):
        table.add_column(column, justify="right")
    for one in found["methods"]:
        settings = f"learning_rate {one['learning_rate']:g}, forget_weight {one['forget_weight']:g}"
        reached = f"{one['reached']} of {one['runs']}"
        if one["why_not"] is not None:
            table.add_row(one["name"], settings, f"none: {one['why_not']}", "", reached)
            continue
        steps, kept = ([one[name]["value"], *one[name]["interval"]] for name in ("steps", "kept"))
        kept_words = [number_words(value, 2) for value in kept]
        table.add_row(
            *(one["name"], settings, f"{steps[0]:.0f} [{steps[1]:.0f}, {steps[2]:.0f}]"),
            *(f"{kept_words[0]} [{kept_words[1]}, {kept_words[2]}]", reached),
        )
    return table


def forecast_lines(found: Mapping[str, Any]) -> list[str]:
    """How wrong the forecast was of runs that were left out, and what it does not say; or why there is none."""
    if found["why_not"] is not None:
        return [f"no forecast of steps and price: {found['why_not']}"]
    lines = []
    for what, told, words in (
        ("steps", lambda error: f"a factor of {math.exp(error):.2f}", "steps"),
        ("kept", lambda error: number_words(error, 2), "what is kept"),
    ):
        fit = found["fit"][what]
        own, plain = (fit["errors"][guess]["mean"] for guess in (fit["chosen"], ALL))
        line = f"{words}, by {fit['chosen']}: each of {found['runs']} runs forecast from all others, wrong by "
        line += f"{told(own)} on average; the median of all runs by {told(plain)}"
        lines.append(line if fit["is_better"] else f"{line}. Nothing shows that this is better than that median")
    words = "recorded with retain weight 60, general weight 100 (KL), LoRA of rank 64; other fields are not looked at"
    more = "runs that never reached the stopping scores count with their last step, so their steps are a lower bound"
    return [*lines, f"{words}; {more}"]


def print_plan(found: Mapping[str, Any], folder: Path, with_figure: bool) -> None:
    """Tables of a plan, and where the rest is."""
    console = Console(highlight=False, width=max(Console().width, 120))
    counts = ", ".join(f"{count} {name}" for name, count in found["rows"].items())
    console.print(f"{found['data']}: {counts} rows\n", markup=False, soft_wrap=True)
    if memorization := found.get("memorization"):
        console.print(_WHAT[memorization["score"]], markup=False, soft_wrap=True)
    if one := found.get("entanglement"):
        centered = number_words(one["centered_by_kind"])
        words = f"entanglement of all rows to forget with {one['retain_rows']} retain rows: {one['published']:.3f} as "
        words += f"published, {centered} without what rows owe to the kind of question; after block {one['layer']} of "
        words += f"{one['blocks']} ({one['why']})"
        console.print(words + (f"; {one['not_centered']}" * bool(one["not_centered"])), markup=False, soft_wrap=True)
    for score in found["groups"]:
        console.print(groups_table(found, score))
    for what, why in found["not_measured"].items():
        console.print(f"not measured, {what}: {why}", markup=False, soft_wrap=True)
    console.print(conflicts_table(found) if found["conflicts"] else "\nno row to forget conflicts with a row to keep")
    if found["forecast"]["methods"]:
        console.print(forecast_table(found["forecast"]))
    for line in forecast_lines(found["forecast"]):
        console.print(line, markup=False, soft_wrap=True)
    console.print(gaps_table(found) if found["gaps"] else "\nnothing is missing for a verdict")
    files = "plan.json" + ", plan.png" * with_figure
    console.print(f"\nEverything is in {folder}/: {files}", markup=False, soft_wrap=True)


def request_words(request: Mapping[str, Any]) -> str:
    """A request in a line, as soon as it is served."""
    words = f"request {request['request']}: {request['rows']} rows, {request['steps']} steps, {request['judgment']}"
    words += f"; answer probability {request['probability'][-1]:.2f}"
    if (earlier := of_earlier(request["probability"])) is not None:
        words += f", of earlier requests {earlier:.2f}"
    if request["kept"] is not None:
        words += f"; keeps {100 * request['kept']:.0f} % ({ability_label(request['lowest_ability'])})"
    return words


def sequence_table(found: Mapping[str, Any]) -> Table:
    """A row for each request: what is left of it and of all before it, and what was lost so far."""
    numbers = ("rows", "steps", "knowledge", "of earlier", "probability", "of earlier ones", "kept", "seconds")
    table = _table("after each request, before any attack", "request", *numbers, "judgment", right=numbers)
    table.caption_justify = "left"
    table.caption = (
        "knowledge: how often the true answer is likelier than made-up ones, of requests that are done; 0.50 is "
        "ignorance. Of earlier: mean over all requests before. Kept: of the weakest of original and oracles, the "
        "lowest ability"
    )
    for one in found["requests"]:
        pairs = [(one[name][-1], of_earlier(one[name])) for name in ("knowledge", "probability")]
        left = [number_words(value, 2) for pair in pairs for value in pair]
        kept = "" if one["kept"] is None else f"{100 * one['kept']:.0f} %\n{ability_label(one['lowest_ability'])}"
        counts = (str(one["request"]), str(one["rows"]), str(one["steps"]))
        table.add_row(*counts, *left, kept, f"{one['seconds']:.0f}", one["judgment"])
    return table


def print_sequence(found: Mapping[str, Any], folder: Path) -> None:
    """The table, and what checks the trail."""
    console = Console(highlight=False, width=max(Console().width, 130))
    console.print(sequence_table(found))
    words = f"\nEverything is in {folder}/: sequence.json, sequence.png, audit_trail.jsonl; llm-unlearn verify {folder}"
    console.print(words, markup=False, soft_wrap=True)
