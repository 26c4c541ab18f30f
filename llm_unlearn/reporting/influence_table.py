"""The influence audit in numbers: what is printed, and table.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llm_unlearn.reporting.words import NOTHING, number_words

_MOST_BLOCKS = 12  # of the logit lens that fit into a line
SCORE_WORDS = {
    "probability": "the answer probability",
    "log_probability": "the mean answer log-probability",
    "log_odds": "the mean log-odds of the answer tokens",
}


@dataclass(frozen=True)
class Section:
    """A table with a model in each row; the first column is the model's name, all others are numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str


def influence_sections(results: Mapping[str, Any]) -> list[Section]:
    """The tables of an influence.json: variation, its linear maps, correlations, logit lens; those that were measured.

    Args:
        results: what `influence_benchmark` returns.
    """
    makers = (_variation, _by_map, _correlations, _lens)
    return [section for section in (make(results) for make in makers) if section is not None]


def markdown(sections: Sequence[Section]) -> str:
    """The tables as one Markdown text."""
    parts = []
    for section in sections:
        lines = [section.columns, ["---", *["---:"] * (len(section.columns) - 1)], *section.rows]
        cells = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
        parts.append(f"**{section.title}**\n\n" + "\n".join(cells) + f"\n\n{section.caption}\n")
    return "\n".join(parts)


def print_sections(sections: Sequence[Section], console: Console) -> None:
    """Print the tables."""
    for section in sections:
        table = Table(
            title=section.title,
            caption=escape(section.caption),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 0, 0, 1),
        )
        for number, column in enumerate(section.columns):
            table.add_column(escape(column), justify="right" if number else "left", no_wrap=not number)
        for row in section.rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
        console.print()


def map_totals(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Kind of linear map -> (D+, D-), summed over the blocks: "self_attn.q_proj" of "0.self_attn.q_proj", ..."""
    totals: dict[str, tuple[float, float]] = {}
    for name, sums in modules.items():
        kind = name.partition(".")[2]
        erased, hidden = totals.get(kind, (0.0, 0.0))
        totals[kind] = (erased + sums["erased"], hidden + sums["hidden"])
    return totals


def short_names(kinds: Sequence[str]) -> list[str]:
    """The last part of each name, where that tells them apart: "q_proj" of "self_attn.q_proj"."""
    last = [kind.rpartition(".")[2] for kind in kinds]
    return last if len(set(last)) == len(last) else list(kinds)


def score_words(results: Mapping[str, Any]) -> str:
    """What influence is the influence on."""
    return SCORE_WORDS[results["score"]]


def _variation(results: Mapping[str, Any]) -> Section | None:
    comparisons = results.get("comparisons")
    if not comparisons:
        return None
    shares = [top["share"] for top in next(iter(comparisons.values()))["top"] if top["share"] < 1]
    columns = ["model", "prob.", "positive", "negative", "D+", "D-", "hiding share"]
    rows = []
    for model, values in results["models"].items():
        found = comparisons.get(model, {})
        means = [_number(values[name]["agg_value"]) for name in ("probability", "positive", "negative")]
        changes = [_number(found.get(name)) for name in ("erased", "hidden", "hiding_share")]
        tops = [_number(top["hiding_share"]) for top in found.get("top", []) if top["share"] < 1]
        rows.append([results["labels"][model], *means, *changes, *(tops or [NOTHING] * len(shares))])
    return Section(
        "influence on the forget answers, against the original",
        [*columns, *(f"top {share:.2%}".replace(".00%", "%") for share in shares)],
        rows,
        f"Influence on {score_words(results)}. positive, negative: the sums over neurons of the highest and of the "
        "lowest influence among a row's tokens, mean over rows. D+: positive influence that is gone (erasure). D-: "
        "negative influence that is new (hiding). Share: D-/(D+ + D-); top: of the neurons that changed most. What "
        "oracles show is no hiding: only a higher share than theirs is.",
    )


def _by_map(results: Mapping[str, Any]) -> Section | None:
    if not results.get("comparisons"):
        return None
    by_model = {model: map_totals(found["modules"]) for model, found in results["comparisons"].items()}
    kinds = list(next(iter(by_model.values())))
    return Section(
        "hiding share by linear map",
        ["model", *short_names(kinds)],
        [[results["labels"][model], *(_share(*totals[kind]) for kind in kinds)] for model, totals in by_model.items()],
        "D- and D+ are summed over all blocks; the figure has them block by block.",
    )


def _correlations(results: Mapping[str, Any]) -> Section | None:
    if not results.get("attribution"):
        return None
    names = ("before_and_after", "original_and_before", "original_and_after")
    rows = []
    for model, runs in results["attribution"].items():
        pairs = [
            " / ".join(_number(_mean(run[name][kind] for run in runs), 2) for kind in ("pearson", "spearman"))
            for name in names
        ]
        probabilities = [_number(_mean(run[f"probability_{word}"] for run in runs)) for word in ("before", "after")]
        rows.append([results["labels"][model], *probabilities, *pairs])
    return Section(
        "attribution before and after reinjection (Pearson / Spearman)",
        ["model", "prob. before", "after", "before, after", "original, before", "original, after"],
        rows,
        "Correlation over neurons of their mean influence, on forget rows that were never reinjected. Neurons of an "
        "oracle from another seed are other neurons: theirs cannot correlate with the original's.",
    )


def _lens(results: Mapping[str, Any]) -> Section | None:
    if not results.get("logit_lens"):
        return None
    blocks = len(next(iter(results["logit_lens"].values()))["by_layer"])
    count = min(blocks, _MOST_BLOCKS)
    shown = sorted({round(number * (blocks - 1) / max(1, count - 1)) for number in range(count)})
    rows = []
    for model, found in results["logit_lens"].items():
        cells = [_number(found["by_layer"][block], 2) for block in shown[:-1]]
        interval = ", ".join(number_words(end, 2) for end in found["intervals"][-1])
        rows.append([results["labels"][model], *cells, f"{_number(found['by_layer'][-1], 2)} [{interval}]"])
    return Section(
        "logit lens: the true answer beats another one",
        ["model", *(f"block {block}" for block in shown)],
        rows,
        "Share of forget rows; chance 0.5, far below it the model avoids the true answer. 95 % interval over people.",
    )


def _number(value: float | None, digits: int = 3) -> str:
    return number_words(value, digits)


def _share(erased: float, hidden: float) -> str:
    return _number(hidden / (erased + hidden) if erased + hidden > 0 else None, 2)


def _mean(values) -> float | None:
    """None where any of the values is."""
    values = list(values)
    return None if any(value is None for value in values) else fmean(values)
