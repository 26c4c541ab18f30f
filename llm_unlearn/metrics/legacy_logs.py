"""Logs of the TOFU repository itself (eval_log_aggregated.json), from before open-unlearning.

Such a log maps four file names, one per set of questions, to {field: {index: value}}. Its aggregates have the same
meaning as the later ones, but its definitions have no 1e-10 in the denominators.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import checked_number, checked_numbers
from llm_unlearn.metrics._log_rows import check_same_rows

_SETS = {
    "eval_log_forget.json": "forget",
    "eval_log.json": "retain",
    "eval_real_author_wo_options.json": "ra",
    "eval_real_world_wo_options.json": "wf",
}
_TRUE, _PARAPHRASED, _PERTURBED, _ROUGE = "avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss", "rougeL_recall"
_FIX = "evaluate this row again"


def is_legacy_log(log: Any) -> bool:
    """Whether a parsed log is an eval_log_aggregated.json, or one of the four files that it was put together from."""
    return isinstance(log, Mapping) and (_TRUE in log or any(name in log for name in _SETS))


def convert_legacy_log(log: Mapping[str, Any], label: str = "eval_log") -> dict[str, dict[str, Any]]:
    """The log in open-unlearning's format, per row, with the metrics that TOFU aggregates and their later names.

    Probabilities are exp(-loss); those of real authors and world facts are normalized by the wrong answers,
    p / (p + sum of wrong). Truth ratios are exp(paraphrased loss - mean perturbed loss), false over true, as
    `truth_ratio` without its 1e-10; TOFU's own code takes the inverse, which changes neither its aggregates nor the
    Kolmogorov-Smirnov test. `label` begins the errors.

    Raises InputError for one of the four files alone, a missing file or field, fields of one file with different rows,
    and losses or scores that are not finite.
    Source: aggregate_eval_stat.py of github.com/locuslab/tofu.
    """
    if _TRUE in log:
        raise InputError(f"{label} is one of four parts of a TOFU evaluation: pass its eval_log_aggregated.json")
    converted: dict[str, dict[str, Any]] = {}
    for file_name, name in _SETS.items():
        if not isinstance(log.get(file_name), Mapping):
            raise InputError(f"{label} has no {file_name}: pass the whole eval_log_aggregated.json")
        for metric, rows in _converted_set(log[file_name], f"{label}: {file_name}", name).items():
            converted[metric] = {"value_by_index": rows}
    return converted


def _converted_set(fields: Mapping[str, Any], label: str, name: str) -> dict[str, dict[str, Any]]:
    for field in (_TRUE, _PARAPHRASED, _PERTURBED, _ROUGE):
        if not isinstance(fields.get(field), Mapping) or not fields[field]:
            raise InputError(f"{label} has no rows in {field}: pass the whole eval_log_aggregated.json")
        check_same_rows(
            f"{label}, {_TRUE}", fields[_TRUE], f"{label}, {field}", fields[field], "evaluate this set again"
        )
    probabilities, ratios, rouge = {}, {}, {}
    for index in fields[_TRUE]:
        true, paraphrased, score = (
            checked_number(f"{label}, {field}, row {index}", fields[field][index], _FIX)
            for field in (_TRUE, _PARAPHRASED, _ROUGE)
        )
        perturbed = checked_numbers(f"{label}, {_PERTURBED}, row {index}", fields[_PERTURBED][index], _FIX)
        probability = np.exp(-true)
        if name in ("ra", "wf"):
            probability = probability / (probability + np.exp(-perturbed).sum())
        probabilities[index] = {"prob": float(probability)}
        ratios[index] = {"score": float(np.exp(paraphrased - perturbed.mean()))}
        rouge[index] = {_ROUGE: score} | _texts(fields, index)
    return {
        f"{name}_Q_A_Prob" + ("_normalised" if name in ("ra", "wf") else ""): probabilities,
        f"{name}_Q_A_ROUGE": rouge,
        "forget_truth_ratio" if name == "forget" else f"{name}_Truth_Ratio": ratios,
    }


def _texts(fields: Mapping[str, Any], index: str) -> dict[str, Any]:
    """Generation and answer, which are kept as [question, generation, answer]."""
    texts = fields.get("generated_text")
    row = texts.get(index) if isinstance(texts, Mapping) else None
    return {"generation": row[1], "ground_truth": row[2]} if isinstance(row, list) and len(row) == 3 else {}
