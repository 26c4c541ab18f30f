"""Evaluation logs on disk: every error names the file, and where in it the fault is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llm_unlearn.errors import InputError
from llm_unlearn.metrics.legacy_logs import is_legacy_log
from llm_unlearn.metrics.logs import RecomputedLog, recompute_log


def read_log(path: str | Path, label: str | None = None) -> dict[str, Any]:
    """The parsed log. `label` begins the errors (the flag and the path, on a command line); default: the path."""
    label = label or str(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{label} cannot be read ({error.strerror}): give a TOFU_EVAL.json") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{label} is not a text file (byte {error.start}): give a TOFU_EVAL.json") from error
    if not text.strip():
        raise InputError(f"{label} is empty: evaluate this model again")
    try:
        log = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{label}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}): evaluate this model "
            "again"
        ) from error
    if not isinstance(log, dict):
        raise InputError(f"{label} holds a {type(log).__name__}, not an object of metrics: give a TOFU_EVAL.json")
    return log


def read_retain_log(path: str | Path, label: str | None = None, *, legacy: bool = False) -> dict[str, Any]:
    """The log of a model trained without the forget rows, checked before hours are spent on the model to compare.

    `legacy`: whether that model's log is one of the TOFU repository (eval_log_aggregated.json).
    """
    label = label or str(path)
    log = read_log(path, label)
    if is_legacy_log(log) == legacy:
        # Compared with itself, a retain log meets every demand that the other log will put to it.
        if "forget_quality" not in recompute_log(log, log, labels=(label, label)).summary:
            raise InputError(
                f"{label} has no forget_truth_ratio, which forget_quality compares: evaluate this model on the forget "
                "rows with perturbed answers"
            )
    else:
        kinds = ("of open-unlearning", "of the TOFU repository")
        raise InputError(
            f"{label} is a log {kinds[not legacy]}, but the model's own is one {kinds[legacy]}; their truth ratios are "
            "defined differently: evaluate both models with the same code"
        )
    return log


def recompute_file(
    path: str | Path, retain_path: str | Path | None = None, *, flags: tuple[str, str] | None = None
) -> RecomputedLog:
    """`metrics.logs.recompute_log` for files. `flags` come before the paths in errors, as in "--recompute a.json"."""
    before = [f"{flag} " for flag in flags] if flags else ["", ""]
    label, retain_label = f"{before[0]}{path}", f"{before[1]}{retain_path}"
    log = read_log(path, label)
    retain_log = None
    if retain_path is not None:
        retain_log = read_retain_log(retain_path, retain_label, legacy=is_legacy_log(log))
    recomputed = recompute_log(log, retain_log, labels=(label, retain_label))
    if not recomputed.summary:
        raise InputError(f"{label} holds no metric of TOFU's, only {', '.join(log)!r:.200}: give a TOFU_EVAL.json")
    return recomputed
