"""Aggregates recomputed from the per-row values of evaluation logs in open-unlearning's format.

A log maps a metric's name to {"agg_value": x, "value_by_index": {"0": {...}, ...}}; membership attacks hold one such
entry each for "forget" and "holdout". Stored aggregates are never read.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import checked_number, checked_numbers
from llm_unlearn.metrics.membership import membership_auc, privleak
from llm_unlearn.metrics.truth_ratio import forget_quality, forget_truth_ratio, utility_truth_ratio
from llm_unlearn.metrics.utility import MODEL_UTILITY_PARTS, model_utility

Rows = Mapping[str, Mapping[str, Any]]

_SPLITS = ("forget", "retain", "ra", "wf")
_PROBABILITIES = ("Prob", "PARA_Prob", "PERT_Prob", "Prob_normalised")
# Metric -> the field of its rows whose mean is the aggregate.
_MEANS = {
    **{f"{split}_Q_A_{kind}": "prob" for split in _SPLITS for kind in _PROBABILITIES},
    **{f"{split}_Q_A_ROUGE": "rougeL_recall" for split in _SPLITS},
    "exact_memorization": "score",
    "extraction_strength": "score",
}
_UTILITY_TRUTH_RATIOS = ("retain_Truth_Ratio", "ra_Truth_Ratio", "wf_Truth_Ratio")
_PRIVLEAK_ATTACK = "mia_min_k"


def aggregate(value_by_index: Rows, field: str = "score") -> float:
    """Mean over rows of one field; a field that holds a list (several wrong answers) is first averaged within its row.

    `value_by_index` maps an index to a record such as {"prob": 0.9, "avg_loss": 0.1}. Range and direction are the
    field's. Rows whose field is None are left out: the format writes None where an answer has no token to score. Truth
    ratios are not averaged: see `forget_truth_ratio` and `utility_truth_ratio`.

    Raises InputError if there are no rows, every row is None, a row lacks the field, or a value is not finite.
    Source: open-unlearning's log format.
    """
    return _mean("value_by_index", value_by_index, field)


def recompute_summary(eval_log: Mapping[str, Any], retain_log: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Every aggregate of a TOFU evaluation log that its rows determine, as {metric: value} with the log's names.

    `eval_log` and `retain_log` are parsed TOFU_EVAL.json objects; `retain_log` is that of the model trained without the
    forget rows. Without it there is no "forget_quality", and "privleak" uses the reference AUC 0.5. A metric is left
    out where the rows that it needs are absent, "model_utility" where one of its nine parts is. Ranges and directions
    are those of the functions in this package; mia_* values are AUCs.

    Raises InputError for an entry without rows (a summary instead of a log), a row without its field, a value that is
    not finite, or forget rows that differ between the two logs.
    Source: open-unlearning's log format and TOFU evaluation.
    """
    summary = {name: _mean(name, _rows(eval_log, name), field) for name, field in _MEANS.items() if name in eval_log}
    for name in _UTILITY_TRUTH_RATIOS:
        if name in eval_log:
            summary[name] = utility_truth_ratio(_scores(eval_log, name))
    for name in eval_log:
        if name.startswith("mia_"):
            summary[name] = _membership_auc(eval_log, name)
    if "forget_truth_ratio" in eval_log:
        ratios = _scores(eval_log, "forget_truth_ratio")
        summary["forget_truth_ratio"] = forget_truth_ratio(ratios)
        if retain_log is not None and "forget_truth_ratio" in retain_log:
            _check_same_rows(eval_log, retain_log, "forget_truth_ratio")
            summary["forget_quality"] = forget_quality(ratios, _scores(retain_log, "forget_truth_ratio"))
    if _PRIVLEAK_ATTACK in summary:
        if retain_log is None:
            summary["privleak"] = privleak(summary[_PRIVLEAK_ATTACK])
        elif _PRIVLEAK_ATTACK in retain_log:
            reference_auc = _membership_auc(retain_log, _PRIVLEAK_ATTACK)
            summary["privleak"] = privleak(summary[_PRIVLEAK_ATTACK], reference_auc)
    if all(name in summary for name in MODEL_UTILITY_PARTS):
        summary["model_utility"] = model_utility(summary)
    return summary


def _rows(log: Mapping[str, Any], name: str) -> Rows:
    entry = log[name]
    rows = entry.get("value_by_index") if isinstance(entry, Mapping) else None
    if not isinstance(rows, Mapping):
        raise InputError(
            f"{name} has no 'value_by_index', got {entry!r:.80}: pass TOFU_EVAL.json, not TOFU_SUMMARY.json"
        )
    return rows


def _values(name: str, rows: Rows, field: str) -> dict[str, Any]:
    for index, row in rows.items():
        if not isinstance(row, Mapping) or field not in row:
            raise InputError(f"{name}, row {index}: no field {field!r} in {row!r:.80}: evaluate this row again")
    return {index: row[field] for index, row in rows.items()}


def _mean(name: str, rows: Rows, field: str) -> float:
    means = [
        checked_numbers(f"{name}, row {index}, {field}", value, "evaluate this row again").mean()
        for index, value in _values(name, rows, field).items()
        if value is not None
    ]
    if not means:
        raise InputError(f"{name} has no row with a value in {field!r}: evaluate at least one row")
    return float(np.mean(means))


def _scores(log: Mapping[str, Any], name: str) -> list[float]:
    return [
        checked_number(f"{name}, row {index}, score", value, "evaluate this row again")
        for index, value in _values(name, _rows(log, name), "score").items()
    ]


def _membership_auc(log: Mapping[str, Any], name: str) -> float:
    groups = log[name]
    for group in ("forget", "holdout"):
        if not isinstance(groups, Mapping) or group not in groups:
            raise InputError(f"{name} has no group {group!r}, got {groups!r:.80}: pass TOFU_EVAL.json, not a summary")
    return membership_auc(_scores(groups, "forget"), _scores(groups, "holdout"))


def _check_same_rows(eval_log: Mapping[str, Any], retain_log: Mapping[str, Any], name: str) -> None:
    # Indices are text in a parsed file and may be integers in a log that was never written.
    rows, retain_rows = ({str(index) for index in _rows(log, name)} for log in (eval_log, retain_log))
    if rows != retain_rows:
        raise InputError(
            f"{name} has {len(rows)} rows in eval_log and {len(retain_rows)} in retain_log, {len(rows & retain_rows)} "
            "shared: evaluate both models on the same forget split"
        )
