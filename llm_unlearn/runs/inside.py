"""A look inside the models of a run, after they were attacked: what stands under `audits` in results.json."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel

from llm_unlearn.arguments.parsing import is_main_process
from llm_unlearn.audits.audit import Inspection
from llm_unlearn.audits.looking import look_inside
from llm_unlearn.examining.examination import Examination
from llm_unlearn.examining.results import reference_models


def audited(
    examination: Examination, original: str, oracles: list[str], unlearned: PreTrainedModel | str | None
) -> dict[str, Any]:
    """What `--audits` found in original, oracles and unlearned model; empty where none is asked for.

    One process suffices: on all others, and without an unlearned model, nothing is done.

    Returns:
        {"audits": the findings of each audit by the sections of its record, and `not_measured`: what -> why}.
    """
    names = examination.attack_args.audits
    if not names or unlearned is None or not is_main_process():
        return {}
    models = reference_models(original, oracles)
    loaders = {name: partial(examination.load_model, path) for name, path in models.items()}
    loaders["unlearned"] = (
        partial(examination.load_model, unlearned) if isinstance(unlearned, str) else lambda: unlearned
    )
    inspection = Inspection(
        examination.data,
        examination.processing_class,
        group_by=examination.attack_args.counterfactual_group_by,
        max_length=examination.max_length,
    )
    console = Console(highlight=False)
    with examination.timed("audits"), console.status("looking inside") as status:
        findings, not_measured = look_inside(
            names,
            inspection,
            loaders,
            begin=lambda name, audits: status.update(f"looking inside {name.replace('_', ' ')}: {', '.join(audits)}"),
        )
    return {"audits": {**findings, "not_measured": not_measured}}
