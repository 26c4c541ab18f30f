"""The verdict in the terminal: its sentence, and the comparisons that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llm_unlearn.reporting.evidence import LEAK

_SCORES = {"forget_probability": "prob.", "forget_exact_match": "match", LEAK: "leak@64"} | {
    "retain_exact_match": "match",
    "retain_probability": "prob.",
}


def print_verdict(verdict: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the contents of a `verdict.json`, in at most 100 columns."""
    console = console or Console(width=max(Console().width, 100), highlight=False)
    if verdict["evidence"]:
        console.print(evidence_table(verdict["evidence"]))
    console.print(f"\n[bold]{escape(verdict['sentence'])}[/]")
    for missing in verdict["missing"]:
        console.print(f"  missing: {escape(missing)}")
    for remark in verdict["remarks"]:
        if remark in verdict["missing"]:  # said already
            continue
        console.print(f"  note: {escape(remark)}")


def evidence_table(evidence: list[Mapping[str, Any]]) -> Table:
    """A row per comparison that could decide; `!` marks those that speak against erasure."""
    table = Table(
        title="what the verdict rests on",
        caption="excess over the oracle (control: true minus made-up facts), 95 % interval over people and seeds.\n"
        "E: 0 as the original, 1 as the oracle. !: speaks against erasure.",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
    )
    table.add_column("comparison", no_wrap=True)
    for title in ("score", "original", "oracle", "unlearned", "excess", "E", ""):
        table.add_column(title, justify="right", no_wrap=True)
    for one in evidence:
        if one["name"] == "adapter_surgery" or (one["score"] == "forget_exact_match" and one["kind"] != "output"):
            continue
        excess = "-" if one["excess"] is None else f"{one['excess']:.3f}"
        if one["interval"]:
            excess += " \\[{:.3f}, {:.3f}]".format(*one["interval"])
        numbers = [_number(one[name]) for name in ("original", "oracle", "unlearned")]
        erasure = "-" if one["erasure"] is None else f"{one['erasure']:.2f}"
        label = escape(one["label"])
        table.add_row(label, _SCORES[one["score"]], *numbers, excess, erasure, "!" if one["flagged"] else "")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
