"""The tables of a robustness benchmark, in the terminal and in Markdown, from its summary (`reporting.robustness`)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from llm_unlearn.attacks import attack_label
from llm_unlearn.examining.abilities import ability_label
from llm_unlearn.examining.evidence import KNOWLEDGE, LEAK, label_of

MAIN_ATTACKS = ("adversarial_reinjection", "benign_relearning")
_MOST_COLUMNS = 9  # of a table in Markdown: one that is wider has a row per method instead
_LONGEST_LINE = 24  # characters of an ability's label
_KNOWN = {  # columns of knowledge
    "before": ("output", None),
    "after reinjection": ("adversarial_reinjection", None),
    "asked in reverse": ("prompting", "reversed"),
}


def main_table(summary: Mapping[str, Any]) -> Table:
    """A row per method: the scores that everybody asks for first."""
    table = Table(
        title="erased, or only hidden?", title_justify="left", caption=caption_of(summary), caption_justify="left"
    )
    table.box, table.show_edge, table.padding = box.SIMPLE_HEAD, False, (0, 0, 0, 1)
    header, rows = _main_cells(summary)
    for title in header[:-1]:
        table.add_column(title, justify="left" if title == header[0] else "right", no_wrap=True)
    table.add_column(header[-1], justify="right", min_width=14)
    for row in rows:
        table.add_row(*(cell.replace(" [", "\n\\[") for cell in row))
    return table


_CAPTION = (
    "match / probability of facts that no attack taught, 95 % intervals over people and seeds; control: true minus "
    "made-up facts"
)
_KNOWLEDGE_CAPTION = (
    "knowledge: how often the true answer is likelier than made-up ones of its kind (0.50: ignorant), of facts that no "
    "attack taught; 95 % intervals over people and seeds; control: true minus made-up facts"
)
_PRICE_CAPTION = (
    "lowest ability: what is left of the weakest of original and oracles, mean over seeds; lost: surely "
    "under 95 % of it"
)


def caption_of(summary: Mapping[str, Any]) -> str:
    """What the columns of the main table mean."""
    words = [_KNOWLEDGE_CAPTION if _has_knowledge(summary) else _CAPTION]
    return "; ".join(words + ([_PRICE_CAPTION] if _has_abilities(summary) else []))


def _has_knowledge(summary: Mapping[str, Any]) -> bool:
    plain = (("output", None), KNOWLEDGE, "")
    return all(score_of(method, plain) is not None for method in summary["methods"].values())


def _has_abilities(summary: Mapping[str, Any]) -> bool:
    """Whether more was measured than the retained facts, which older results have as well."""
    return all(len(method["abilities"]) > 1 for method in summary["methods"].values())


def markdown_tables(summary: Mapping[str, Any]) -> str:
    """The table per method, and one of all attacks with their variants (mean answer probability, excess)."""
    header, rows = _main_cells(summary)
    lines = [
        _line(header),
        _line(["---"] + ["---:"] * (len(header) - 1)),
        *map(_line, rows),
        "",
        caption_of(summary) + ".",
        "",
    ]
    for one in summary["controls"]:
        words = f"{one['control']} recovers {_with_interval(one, 'difference', 'interval')} more than {one['method']}"
        lines += [f"{words} after {label_of(one['attack'], None)} (answer probability).", ""]
    if _has_abilities(summary):
        lines += _ability_lines(summary)
    columns = {"original": "references", "oracle": "references"} | dict.fromkeys(summary["methods"], "methods")
    columns = {name: kind for name, kind in columns.items() if name in summary[kind]}
    for title, scores in (("knowledge", (KNOWLEDGE,)), ("score", ("forget_probability", LEAK))):
        rows = []
        for key in keys_of(summary, scores):
            found = [score_of(summary[kind][name], key) for name, kind in columns.items()]
            words = {KNOWLEDGE: "", LEAK: " (leak@64)"}.get(key[1], " (probability)")
            rows.append([key[2] + words, *(_with_interval(one, "value", "interval") for one in found)])
        lines += _table_lines([[f"{title} after each attack", *columns], *rows]) if rows else []
    return "\n".join(lines)


def _ability_lines(summary: Mapping[str, Any]) -> list[str]:
    """What is left of every ability, in the score that kept least."""
    methods = summary["methods"]
    rows = [["what is left of each ability", *methods]]
    for name in next(iter(methods.values()))["abilities"]:
        cells = []
        for method in methods.values():
            measured = [one for one in method["abilities"].get(name, {}).values() if one["share"] is not None]
            least = min(measured, key=lambda one: one["share"], default=None)
            cells.append(_with_interval(least, "share", "interval") + (" (lost)" if name in method["lost"] else ""))
        rows.append([ability_label(name), *cells])
    return _table_lines(rows)


def _table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table, its header first; columns become rows where there are too many of them."""
    header, *others = rows if len(rows[0]) <= _MOST_COLUMNS else [*zip(*rows, strict=True)]
    return [_line(header), _line(["---"] + ["---:"] * (len(header) - 1)), *map(_line, others), ""]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("\n", " ") for cell in cells) + " |"


def _main_cells(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The header and a row per reference and method.

    Where they were measured, knowledge stands in place of match and probability, and the price in place of the retain
    match.
    """
    has_knowledge, has_abilities = _has_knowledge(summary), _has_abilities(summary)
    attacks = [name for name in MAIN_ATTACKS if any(key[0] == (name, None) for key in keys_of(summary))]
    header = ["method", "rate", "steps"]
    if has_knowledge:
        known = {words: key for words, key in _KNOWN.items() if score_of(_any_method(summary), (key, KNOWLEDGE, ""))}
        header += [f"knowledge\n{words}" for words in known]
    else:
        header += [] if has_abilities else ["retain\nmatch"]
        header += ["forget", *(attack_label(one) for one in attacks), "excess over oracle\n(reinjection)"]
    header += ["lowest ability\n(what is left)", "abilities\nlost"] if has_abilities else []
    header += ["control excess", "verdicts"]
    rows = []
    for name, one in (*summary["references"].items(), *summary["methods"].items()):
        is_method = name in summary["methods"]
        cells = [name if is_method or one["models"] == 1 else f"{name} ({one['models']})"]
        cells += [f"{one['learning_rate']:.2g}", f"{one['steps']:.0f}"] if is_method else ["", ""]
        if has_knowledge:
            found = [score_of(one, (key, KNOWLEDGE, "")) for key in known.values()]
            cells += [_with_interval(score, "value", "interval") for score in found]
        else:
            retained = "-" if one["retain_exact_match"] is None else f"{one['retain_exact_match']:.3f}"
            cells += [] if has_abilities else [retained]
            cells += [_pair(one, (attack, None)) for attack in ("output", *attacks)]
            probability = score_of(one, (("adversarial_reinjection", None), "forget_probability", ""))
            cells.append(_with_interval(probability, "excess", "excess_interval") if is_method else "")
        if has_abilities:
            cells += _price_cells(one) if is_method else ["", ""]
        cells.append(_with_interval(one["control"] and one["control"]["after"], "excess", "interval"))
        verdicts = one.get("verdicts", {})
        cells.append(", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()))
        rows.append(cells)
    return header, rows


def _price_cells(method: Mapping[str, Any]) -> list[str]:
    lowest = method["lowest"]
    words = "-" if lowest is None else f"{lowest['label']} ({lowest['share']:.0%})".replace("%", " %")
    return [textwrap.fill(words, _LONGEST_LINE), f"{len(method['lost'])} of {len(method['abilities'])}"]


Key = tuple[tuple[str, str | None], str, str]  # (attack, variant), score, label


def _any_method(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(iter(summary["methods"].values()))


def keys_of(summary: Mapping[str, Any], wanted: Sequence[str] = ("forget_probability", LEAK)) -> list[Key]:
    """The scores of these kinds, in their order."""
    return [
        ((one["name"], one["variant"]), one["score"], one["label"])
        for one in _any_method(summary)["scores"]
        if one["score"] in wanted
    ]


def score_of(method: Mapping[str, Any], key: Key) -> Mapping[str, Any] | None:
    wanted = (*key[0], key[1])
    return next((one for one in method["scores"] if (one["name"], one["variant"], one["score"]) == wanted), None)


def _pair(method: Mapping[str, Any], attack: tuple[str, None]) -> str:
    match, probability = (
        score_of(method, (attack, score, "")) for score in ("forget_exact_match", "forget_probability")
    )
    return f"{match['value']:.2f} / {probability['value']:.2f}" if match and probability else "-"


def _with_interval(one: Mapping[str, Any] | None, value: str, interval: str) -> str:
    if one is None or one.get(value) is None:
        return "-"
    return f"{one[value]:.2f} [{one[interval][0]:.2f}, {one[interval][1]:.2f}]"
