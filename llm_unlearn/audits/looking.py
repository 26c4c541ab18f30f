"""Several audits of several models, one model after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from llm_unlearn.audits import load_audit
from llm_unlearn.audits.audit import Inspection, Measure
from llm_unlearn.errors import InputError


def look_inside(
    audits: Sequence[str],
    inspection: Inspection,
    models: Mapping[str, Callable[[], PreTrainedModel]],
    *,
    required: Sequence[str] = (),
    begin: Callable[[str, Sequence[str]], None] = lambda model, audits: None,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What audits find in each model; only one of the models, and what an audit keeps of the original, is in memory.

    Args:
        audits: by name, in the order in which they look.
        models: original first, then oracles, then unlearned ones: name -> what loads it.
        required: audits that must be possible; what any other one lacks is noted.
        begin: called with each model's name and the audits that will look at it, before it is loaded.

    Returns:
        Section of an audit's record -> model -> finding; and what could not be measured -> why.

    Raises:
        InputError: a required audit is not possible.
    """
    not_measured: dict[str, str] = {}
    findings: dict[str, dict[str, Any]] = {}
    started: dict[str, Measure | None] = {}
    for name in audits:
        audit = load_audit(name)
        findings |= {section: {} for section in audit.sections}
        try:
            started[name] = audit.start(inspection)
        except InputError as error:  # all else can still be measured
            if name in required:
                raise
            not_measured[name] = str(error)
    for name, load in models.items() if any(started.values()) else ():
        begin(name, [*started])
        model = load()
        for audit, measure in started.items():
            try:
                found = measure(name, model) if measure else {}
            except InputError as error:
                not_measured[f"{audit} of {name}"] = str(error)
                found = {}
                if name == "original":  # with which all others are compared
                    started[audit] = None
            for section, finding in found.items():
                findings[section][name] = finding
        del model  # before the next one is loaded
    return findings, not_measured
