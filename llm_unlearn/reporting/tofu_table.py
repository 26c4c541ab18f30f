"""The table of a TOFU evaluation: every aggregate of a model beside those of its references."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, stdev

from rich import box
from rich.table import Table

from llm_unlearn.examining.results import MODELS, model_entries
from llm_unlearn.metrics import MODEL_UTILITY_PARTS

Summary = Mapping[str, float]

GROUPS = {
    "forget set": ("forget_quality", "forget_truth_ratio", "forget_Q_A_", "forget_exact_match", "leak_at_"),
    "memorization": ("exact_memorization", "extraction_strength"),
    "membership (AUC)": ("mia_", "privleak"),
    "utility": ("model_utility", *MODEL_UTILITY_PARTS),
    "the same facts, asked otherwise": ("query_",),
    "neighboring facts": ("neighbor_",),
    "other": ("",),
}


def tofu_table(summaries: Mapping[str, Summary]) -> Table:
    """A row per metric, a column for each of original, oracle and unlearned that was judged.

    Args:
        summaries: model -> aggregates; several oracles (oracle, oracle_1, ...) share a column, mean and standard
            deviation.
    """
    columns = {model: entries for model in MODELS if (entries := model_entries(dict(summaries), model))}
    table = Table(title="TOFU evaluation", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("metric", no_wrap=True)
    for model, entries in columns.items():
        table.add_column(model if len(entries) == 1 else f"{model} (of {len(entries)})", justify="right", no_wrap=True)
    left = list(dict.fromkeys(name for summary in summaries.values() for name in summary))
    for title, prefixes in GROUPS.items():
        names = [name for prefix in prefixes for name in sorted(left) if name.startswith(prefix)]
        names = list(dict.fromkeys(names))
        if not names:
            continue
        left = [name for name in left if name not in names]
        table.add_section()
        table.add_row(f"[bold]{title}[/]")
        for name in names:
            table.add_row(f"  {name}", *(_cell(entries, name) for entries in columns.values()))
    return table


def _cell(entries: list[Summary], name: str) -> str:
    values = [entry[name] for entry in entries if name in entry]
    if not values:
        return "-"
    mean = fmean(values)
    text = f"{mean:.4f}" if abs(mean) >= 1e-3 or mean == 0 else f"{mean:.1e}"
    return text if len(values) == 1 else f"{text} ±{stdev(values):.4f}"
