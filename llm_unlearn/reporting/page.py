"""The one-page report of a run: "erased, or only hidden?", with its evidence, as a file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from llm_unlearn.errors import InputError
from llm_unlearn.examining.results import MODELS, model_entries, read_run, read_verdict
from llm_unlearn.files.run_files import read_rows
from llm_unlearn.reporting import page_sections as sections
from llm_unlearn.reporting.figures import attacks_with_curves, recovery_figure
from llm_unlearn.reporting.heat_map import run_heat_map
from llm_unlearn.reporting.inside_figure import inside_figure
from llm_unlearn.reporting.page_samples import samples_section
from llm_unlearn.reporting.trade_off import run_trade_off
from llm_unlearn.reporting.words import NOTHING, attack_words, number_words

_CONTROL = "counterfactual_control"
_PRICE_CAPTION = " The price of an attacked model is that before the attack."


def write_report(folder: str | Path) -> Path:
    """Write the figures and report.html of a run from its JSON files; the same files make the same page.

    Args:
        folder: output folder of a recipe, with results.json and verdict.json; records/ and forget.jsonl are optional.

    Returns:
        The path of report.html.

    Raises:
        InputError: one of the two files is missing, or a file cannot be read.
    """
    folder = Path(folder)
    results, records = read_run(folder)
    verdict = read_verdict(folder, results, f"make it with: llm-unlearn report {folder}")
    page = render_page(results, verdict, records, read_rows(folder / "forget.jsonl"), _figures(results, folder))
    path = folder / "report.html"
    # generated text may hold halves of characters, which have no bytes
    path.write_bytes(page.encode("utf-8", errors="replace"))
    return path


def render_page(
    results: dict[str, Any],
    verdict: dict[str, Any],
    records: dict[str, Any],
    forget: list[dict[str, Any]],
    figures: list[dict[str, Any]],
) -> str:
    """The page as text.

    Args:
        results, verdict: contents of results.json and verdict.json.
        records: model -> contents of records/<model>.json.
        forget: rows of forget.jsonl.
        figures: each with `title`, `caption`, `alt`, `source` (a data URI) and `wide` (for phones).
    """
    not_attacked = results.get("not_attacked") or {}
    return (
        _templates()
        .get_template("report.html.jinja")
        .render(
            models=MODELS,
            nothing=NOTHING,
            method=results.get("method", "run"),
            seed=results.get("seed"),
            verdict=sections.verdict_section(verdict),
            criteria=verdict.get("criteria") or {},
            cost=sections.cost_section(verdict),
            is_old=bool(results.get("scores")) and "abilities" not in results,
            evidence=sections.evidence_section(verdict),
            has_selectivity=sections.has_selectivity(verdict),
            has_knowledge=sections.has_knowledge(verdict),
            figures=figures,
            samples=samples_section(results, records, forget),
            published="published" in results,
            control=sections.control_section(results),
            attacks=sections.attacks_section(results),
            not_attacked={attack_words(attack): why for attack, why in not_attacked.items() if attack != _CONTROL},
            no_control=not_attacked.get(_CONTROL),
            several_oracles=len(model_entries(results.get("scores") or {}, "oracle")),
            run=sections.run_section(results),
            config=yaml.safe_dump(results.get("config") or {}, sort_keys=False, allow_unicode=True),
        )
    )


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("llm_unlearn.reporting", ""),
        autoescape=True,  # what a model says may well be HTML
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


# ---- figures ---------------------------------------------------------------------------------------------------------


def _figures(results: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Draw what the results suffice for; the PNG files stay in the folder."""
    drawn = [
        _figure(
            "Do the facts come back?",
            "Facts that the attacker never trained on, scored while the model is tuned. Only what rises above the "
            "oracle was still in the model: the oracle never knew it.",
            _recovery_alt(results),
            recovery_figure,
            results,
            folder / "recovery.png",
            wide=True,
        ),
        _figure(
            "Every attack, every model",
            "The higher a number of the unlearned model is above the oracle's in the same row, the more is left to "
            "bring back. Hatched: not measured.",
            "Heat map of the mean answer probability of each model after each attack; the numbers are in the table "
            "of attacks.",
            run_heat_map,
            results,
            folder / "heat_map.png",
        ),
        _figure(
            "What is still inside?",
            "Whatever the model says: what readouts learned from retained people find about forgotten ones, and how "
            "far its hidden states went from the original's (0) to an oracle's (1). Only the first speaks against "
            "erasure.",
            "Line plots over the blocks of the model; the numbers are in the table of what is still known.",
            inside_figure,
            results,
            folder / "inside.png",
            wide=True,
        ),
        _figure(
            "Forgotten, and at what price?",
            "At the top: nothing else lost. Where the dotted lines cross: like a model that never knew; further to the "
            "left is not better, for avoiding an answer gives it away, too."
            + (_PRICE_CAPTION if results.get("abilities") else ""),
            "Scatter plot of what is still known against what was lost; the numbers are in the tables.",
            run_trade_off,
            results,
            folder / "trade_off.png",
        ),
    ]
    return [figure for figure in drawn if figure]


def _figure(
    title: str, caption: str, alt: str, draw: Callable, results: dict[str, Any], path: Path, wide: bool = False
) -> dict[str, Any] | None:
    try:
        draw(results, path)
    except InputError:  # these results have nothing of the kind
        return None
    source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return {"title": title, "caption": caption, "alt": alt, "source": source, "wide": wide}


def _recovery_alt(results: dict[str, Any]) -> str:
    """The message of the curves for those who cannot see them."""
    words = []
    for attack, by_model in attacks_with_curves(results).items():
        ends = [
            f"{model} {number_words(entry['curve'][0].get('forget_probability'), 2)}"
            f" before, at most {number_words(entry.get('forget_probability'), 2)} after"
            for model, entry in by_model.items()
        ]
        words.append(f"{attack_words(attack)}: {'; '.join(ends)}")
    return f"Mean answer probability against relearning steps. {'. '.join(words)}."
