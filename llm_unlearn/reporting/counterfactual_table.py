"""The table of the counterfactual control: knowledge excess before and after the attack, with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table


def counterfactual_table(outcomes: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per model.

    Args:
        outcomes: model -> what `attacks.knowledge_excess` returns.
    """
    table = Table(
        title="counterfactual control: true facts minus made-up ones",
        caption="excess: in mean answer probability, with its 95 % interval; 0 = this attack brings nothing back.\n"
        "p: one-sided, of the hypothesis that true and made-up answers are the same to the model.",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    table.add_column("model", no_wrap=True)
    for title in ("true", "made up", "excess after the attack", "p", "excess before"):
        table.add_column(title, justify="right", no_wrap=True)
    for model, outcome in outcomes.items():
        after, before = outcome["probability"], outcome["excess_before"]["probability"]
        table.add_row(
            model,
            f"{after['recovered']:.3f}",
            f"{after['recovered_counterfactual']:.3f}",
            _with_interval(after),
            f"{after['p_value']:.4f}",
            _with_interval(before),
        )
    return table


def _with_interval(value: Mapping[str, Any]) -> str:
    low, high = value["interval"]
    return f"{value['excess']:.3f} \\[{low:.3f}, {high:.3f}]"
