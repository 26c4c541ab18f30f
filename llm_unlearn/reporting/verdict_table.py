"""The verdict in the terminal: its sentence, what is still known, and what forgetting cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llm_unlearn.examining.evidence import KNOWLEDGE, LEAK, SAID, Evidence
from llm_unlearn.examining.inside import INSIDE
from llm_unlearn.reporting.comparisons import PROBABILITY, Price, Style, prices_of, styles_of

_SCORES = {
    "forget_exact_match": ", exact match",
    SAID: ", value said",
    PROBABILITY: "",
    LEAK: "",
}  # what is not said needs no word
_KNOWN_CAPTION = (
    "knowledge: how often the true answer is likelier than made-up ones of its kind (0.50: ignorant), with its 95 % "
    "interval over people and seeds. prob.: mean probability of the true answer. selectivity: how much more it fell "
    "than that of retained facts asked alike. !: speaks against erasure. ability lost: both fell alike."
)
_BESIDE_CAPTION = (
    "excess over the oracle (control: true minus made-up facts), 95 % interval over people and seeds. E: 0 as the "
    "original, 1 as the oracle. !: speaks against erasure."
)
_INSIDE_CAPTION = (
    "read off: share of values that readouts learned from retained people find in states of forgotten ones. depth and "
    "consistency: 0 as the original, 1 as the oracle; they decide nothing. 95 % intervals over people."
)
_COST_CAPTION = (
    "exact match and mean answer probability (of fluency and refusing the share of well-formed, or of any, answers). "
    "kept: of the weakest of original and oracles, by the score that kept least. ?: too few rows to tell loss from "
    "chance."
)


def print_verdict(verdict: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the contents of a `verdict.json`, in at most 100 columns."""
    console = console or Console(width=max(Console().width, 100), highlight=False)
    for table, caption in verdict_tables(verdict):
        console.print(table, caption, "", sep="\n")  # a table's own caption would be wrapped at its width
    console.print(f"[bold]{escape(verdict['sentence'])}[/]")
    for missing in verdict["missing"]:
        console.print(f"  missing: {escape(missing)}")
    for remark in verdict["remarks"]:
        if remark in verdict["missing"]:  # said already
            continue
        console.print(f"  note: {escape(remark)}")


def verdict_tables(verdict: Mapping[str, Any]) -> list[tuple[Table, str]]:
    """Knowledge by style and attack; what has oracle and control beside it; the price: each with its caption.

    Empty ones are left out.
    """
    styles = [style for style in styles_of(verdict) if style.name != "adapter_surgery"]
    prices = prices_of(verdict)
    known = [style for style in styles if KNOWLEDGE in style.by_score]
    inside = [style for style in styles if style.kind == INSIDE]
    beside = [style for style in styles if style not in (*known, *inside) or style.kind == "output"]
    found = [
        (_knowledge_table, known, _KNOWN_CAPTION),
        (_beside_table, beside, _BESIDE_CAPTION),
        (_inside_table, inside, _INSIDE_CAPTION),
        (_cost_table, prices, _COST_CAPTION),
    ]
    return [(table(rows), caption) for table, rows, caption in found if rows]


def _knowledge_table(styles: Sequence[Style]) -> Table:
    """A row per style and attack in which true answers were compared with made-up ones."""
    table = _table("what is still known", padding=0)
    table.add_column("\nasked, or attacked", no_wrap=True)
    titles = ("knowledge\noriginal", "\noracle", "\nunlearned", "prob.\noracle", "prob.\nunlearned")
    for title in (*titles, "select-\nivity", ""):
        table.add_column(title, justify="right", no_wrap=True)
    for style in styles:
        finding = style.by_score[KNOWLEDGE]
        unlearned = _number(finding.unlearned, 2) + _interval(finding.unlearned_interval, 2)
        beside = style.by_score.get(PROBABILITY)
        probabilities = [None, None] if beside is None else [beside.oracle, beside.unlearned]
        numbers = [
            _number(finding.original, 2),
            _number(finding.oracle, 2),
            unlearned,
            *(_number(p, 2) for p in probabilities),
        ]
        selective = _number(style.selectivity and style.selectivity[0], 2)
        table.add_row(escape(style.label), *numbers, selective, style.mark)
    return table


def _beside_table(styles: Sequence[Style]) -> Table:
    """A row per comparison with the oracle, and the control."""
    table = _table("beside models that never knew", padding=0)
    table.add_column("comparison", no_wrap=True)
    for title in ("original", "oracle", "unlearned", "excess", "E", ""):
        table.add_column(title, justify="right", no_wrap=True)
    for style in styles:
        for score, finding in style.by_score.items():
            if score == KNOWLEDGE or (score == "forget_exact_match" and style.kind != "output"):
                continue
            numbers = [_number(value) for value in (finding.original, finding.oracle, finding.unlearned)]
            excess = _number(finding.excess) + _interval(finding.interval)
            mark = "!" if finding.flagged else style.mark if style.lost_ability else ""
            label = escape(style.label + _SCORES.get(score, f", {score.replace('_', ' ')}"))
            table.add_row(label, *numbers, excess, _number(finding.erasure, 2), mark)
    return table


def _inside_table(styles: Sequence[Style]) -> Table:
    """A row per audit."""
    table = _table("inside the model, whatever it says", padding=0)
    table.add_column("audit", no_wrap=True)
    for title in ("original", "oracle", "unlearned", ""):
        table.add_column(title, justify="right", no_wrap=True)
    for style in styles:
        for finding in style.by_score.values():
            unlearned = _number(finding.unlearned, 2) + _interval(finding.unlearned_interval, 2)
            table.add_row(style.label, _number(finding.original, 2), _number(finding.oracle, 2), unlearned, style.mark)
    return table


def _cost_table(prices: Sequence[Price]) -> Table:
    """A row per ability."""
    table = _table("what it cost")
    table.add_column("\nability", no_wrap=True)
    for title in ("original\nmatch prob.", "oracle\nmatch prob.", "unlearned\nmatch prob.", "\nkept", ""):
        table.add_column(title, justify="right", no_wrap=True)
    for price in prices:
        pairs = [_pair(price.by_score, model) for model in ("original", "oracle", "unlearned")]
        kept = "-" if price.share is None else f"{price.share:.0%}".replace("%", " %")
        table.add_row(escape(price.label), *pairs, kept, price.word)
    return table


def _pair(by_score: Mapping[str, Evidence], model: str) -> str:
    """Match and probability side by side; a score of another kind stands alone, in the first place."""
    if "exact_match" in by_score or "probability" in by_score:
        found = [by_score.get(score) for score in ("exact_match", "probability")]
    else:
        found = [next(iter(by_score.values())), None]
    numbers = [_number(getattr(finding, model), 2) if finding else "" for finding in found]
    return f"{numbers[0]:>5} {numbers[1]:>5}"


def _table(title: str, padding: int = 1) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, padding))


def _interval(ends: Sequence[float] | None, digits: int = 3) -> str:
    return " \\[{}, {}]".format(*(_number(end, digits) for end in ends)) if ends else ""


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
