"""Aggregates recomputed from the per-row values of evaluation logs.

A log in open-unlearning's format maps a metric's name to {"agg_value": x, "value_by_index": {"0": {...}, ...}};
membership attacks hold one such entry each for "forget" and "holdout". Logs of the TOFU repository itself are read too:
see `legacy_logs`. Stored aggregates are compared with, and never used.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import EPSILON, checked_numbers, checked_text
from llm_unlearn.metrics._log_rows import LogRows, check_same_rows
from llm_unlearn.metrics.legacy_logs import convert_legacy_log, is_legacy_log
from llm_unlearn.metrics.membership import membership_auc, privleak
from llm_unlearn.metrics.rouge import rouge_scores, rouge_tokenizer
from llm_unlearn.metrics.truth_ratio import forget_quality, forget_truth_ratio, utility_truth_ratio
from llm_unlearn.metrics.utility import MODEL_UTILITY_PARTS, model_utility

_PROBABILITY = re.compile(r".+_Q_A_(PARA_|PERT_)?Prob(_normalised)?")
_ROUGE = re.compile(r".+_Q_A_(PARA_|PERT_)?ROUGE")
_TRUTH_RATIO = re.compile(r".+_truth_ratio", re.IGNORECASE)  # the logs write forget_truth_ratio, but ra_Truth_Ratio
_FORGET_SCORE = re.compile(r"(exact_memorization|extraction_strength)(_open_unlearning)?|leak_at_\d+")
_SET_SCORE = re.compile(r".+_(exact_match|accuracy|Q_A_gibberish)")
_SET = re.compile(r"(.+?)_(Q_A_.+|truth_ratio|exact_match|accuracy)", re.IGNORECASE)
_MAY_BE_EMPTY = "exact_memorization"
_ROUGE_FIELD = "rougeL_recall"
_PRIVLEAK_ATTACK = "mia_min_k"
_DERIVED = ("forget_quality", "model_utility", "privleak")
_EXPECTED = ("forget_Q_A_Prob", "forget_Q_A_ROUGE", "forget_truth_ratio")
# Truth ratios may have been stored in float32; a different definition is much further away.
_ROW_TOLERANCE = 1e-5


@dataclass(frozen=True)
class RecomputedLog:
    """`summary`: {metric: value}. `remarks`: {metric: why it is missing, or what in the log contradicts it}."""

    summary: dict[str, float]
    remarks: dict[str, str]


def aggregate(value_by_index: Mapping[str, Mapping[str, Any]], field: str = "score") -> float:
    """Mean over rows of one field; a field that holds a list (several wrong answers) is first averaged within its row.

    `value_by_index` maps an index to a record such as {"prob": 0.9, "avg_loss": 0.1}. Range and direction are the
    field's. Rows whose field is None are left out: the format writes None where an answer has no token to score. Truth
    ratios are not averaged: see `forget_truth_ratio` and `utility_truth_ratio`.

    Raises InputError if there are no rows, every row is None, a row lacks the field, or a value is not finite.
    Source: open-unlearning's log format.
    """
    means = []
    for index, row in value_by_index.items():
        if not isinstance(row, Mapping) or field not in row:
            raise InputError(f"value_by_index, row {index}: no field {field!r} in {row!r:.80}: evaluate this row again")
        if row[field] is not None:
            name = f"value_by_index, row {index}, {field}"
            means.append(checked_numbers(name, row[field], "evaluate this row again").mean())
    if not means:
        raise InputError(f"value_by_index has no row with a value in {field!r}: evaluate at least one row")
    return float(np.mean(means))


def recompute_summary(eval_log: Mapping[str, Any], retain_log: Mapping[str, Any] | None = None) -> dict[str, float]:
    """The summary of `recompute_log`, without its remarks."""
    return recompute_log(eval_log, retain_log).summary


def recompute_log(
    eval_log: Mapping[str, Any],
    retain_log: Mapping[str, Any] | None = None,
    *,
    labels: tuple[str, str] = ("eval_log", "retain_log"),
) -> RecomputedLog:
    """Every aggregate of a TOFU evaluation log that its rows determine, with the log's names.

    `eval_log` and `retain_log` are parsed TOFU_EVAL.json objects, or both eval_log_aggregated.json objects of the TOFU
    repository; `retain_log` is that of the model trained without the forget rows. Without it there is no
    "forget_quality", and "privleak" uses the reference AUC 0.5, as it does for a retain log without mia_min_k. ROUGE is
    scored again from the stored texts where a row has them. Truth ratios and normalized probabilities are taken from
    their own rows and compared with the losses and probabilities that they follow from; where they are the newer
    open-unlearning's true / (true + false), their aggregate is the mean. A metric is left out where the log does not
    hold it, "model_utility" where one of its nine parts is missing; the remarks say so. They also say where a stored
    row or aggregate differs from the recomputed one. Ranges and directions are those of the functions in this package;
    mia_* values are AUCs. `labels` begin the errors, so that they name the files.

    Raises InputError for an entry without rows (a summary instead of a log), a row without its fields, a value that is
    not finite (null is allowed only in exact_memorization, for an answer without a token; such rows are left out),
    different rows in metrics of one set, in the groups of two attacks or in the forget sets of the two logs, a stored
    forget_quality or model_utility whose parts are missing, no forget_truth_ratio to compare with the retain log, or
    two logs in different formats.
    Source: open-unlearning's log format and TOFU evaluation; TOFU, arXiv 2401.06121.
    """
    if retain_log is not None and is_legacy_log(eval_log) != is_legacy_log(retain_log):
        kinds = ["of the TOFU repository" if is_legacy_log(x) else "of open-unlearning" for x in (eval_log, retain_log)]
        raise InputError(
            f"{labels[0]} is a log {kinds[0]} and {labels[1]} one {kinds[1]}; their truth ratios are defined "
            "differently: evaluate both models with the same code"
        )
    legacy = is_legacy_log(eval_log)
    if legacy:
        eval_log = convert_legacy_log(eval_log, labels[0])
        retain_log = None if retain_log is None else convert_legacy_log(retain_log, labels[1])
    work = _Recomputation(LogRows(eval_log, labels[0]), follows_from_losses=not legacy)
    work.recompute_sets()
    work.recompute_attacks()
    work.compare(None if retain_log is None else LogRows(retain_log, labels[1]))
    work.recompute_utility()
    work.compare_with_stored()
    return RecomputedLog(work.summary, {name: "; ".join(texts) for name, texts in work.remarks.items()})


class _Recomputation:
    """The steps of `recompute_log`, in order, on one log."""

    def __init__(self, log: LogRows, follows_from_losses: bool) -> None:
        self.log = log
        self.follows_from_losses = follows_from_losses
        self.summary: dict[str, float] = {}
        self.remarks: dict[str, list[str]] = {}

    def remark(self, name: str, text: str) -> None:
        self.remarks.setdefault(name, []).append(text)

    def recompute_sets(self) -> None:
        kinds: tuple[tuple[re.Pattern, Callable[[str], float | None]], ...] = (
            (_PROBABILITY, self._probability),
            (_ROUGE, self._rouge),
            (_TRUTH_RATIO, self._truth_ratio),
            (_FORGET_SCORE, self._score),
            (_SET_SCORE, self._score),
        )
        first_of_set: dict[str, str] = {}
        for name in self.log.log:
            function = next((function for pattern, function in kinds if pattern.fullmatch(name)), None)
            if function is None:
                if not name.startswith("mia_") and name not in _DERIVED:
                    self.remark(name, "left out: not a metric of TOFU's")
                continue
            set_name = "forget" if _FORGET_SCORE.fullmatch(name) else _SET.fullmatch(name)[1]
            self.log.check_same_rows(first_of_set.setdefault(set_name, name), name)
            value = function(name)
            if value is not None:
                self.summary[name] = value
        present = {name.lower() for name in self.summary}
        for name in _EXPECTED:
            if name.lower() not in present:
                self.remark(name, "missing: the log lacks it")

    def _probability(self, name: str) -> float:
        values = self.log.numbers(name, "prob")
        for index, row in self.log.rows(name).items():
            if "avg_loss" in row:
                self.log.checked(name, index, "avg_loss", row["avg_loss"])
        right, wrong = name.removesuffix("_normalised"), name.replace("_Prob_normalised", "_PERT_Prob")
        if right != name and self.follows_from_losses and right in self.log and wrong in self.log:
            correct, others = self.log.numbers(right, "prob"), self.log.numbers(wrong, "prob", total=True)
            if correct.keys() == others.keys() == values.keys():
                shares = {index: correct[index] / (correct[index] + others[index] + EPSILON) for index in values}
                self._check_rows(name, values, shares, f"{right} and {wrong}")
        return float(np.mean(list(values.values())))

    def _score(self, name: str) -> float | None:
        values = self.log.values(name, "score")
        if name.startswith(_MAY_BE_EMPTY):
            empty = [index for index, value in values.items() if value is None]
            if empty:
                self.remark(
                    name, f"{len(empty)} of {len(values)} rows have no score and are left out, first {empty[0]}"
                )
            values = {index: value for index, value in values.items() if value is not None}
            if not values:
                return None
        return float(np.mean([self.log.checked(name, index, "score", value) for index, value in values.items()]))

    def _rouge(self, name: str) -> float:
        used, different, unscored, others = [], [], [], []
        for index, row in self.log.rows(name).items():
            scored = self._scored_texts(name, index, row)
            if scored is not None and "unicode" in map(rouge_tokenizer, _listed(row["ground_truth"])):
                others.append(index)
            if scored is None:
                scored = {
                    _ROUGE_FIELD: self.log.checked(name, index, _ROUGE_FIELD, self._rouge_field(name, index, row))
                }
                if _has_texts(row):
                    unscored.append(index)
            for field in [field for field in scored if field in row]:
                stored = self.log.checked(name, index, field, row[field])
                if not np.allclose(stored, scored[field], rtol=1e-9, atol=1e-12):
                    different.append(f"row {index}: {field} {row[field]} stored, {scored[field]} from the texts")
            used.append(np.mean(scored[_ROUGE_FIELD]))
        if others:
            self.remark(name, f"{len(others)} rows are scored by the Unicode tokenizer; first row {others[0]}")
        if different:
            self.remark(name, f"scored from the texts, which {len(different)} stored values contradict; {different[0]}")
        if unscored:
            self.remark(
                name, f"{len(unscored)} answers have no word for ROUGE, stored values are used; first row {unscored[0]}"
            )
        return float(np.mean(used))

    def _rouge_field(self, name: str, index: str, row: Any) -> Any:
        if not isinstance(row, Mapping) or _ROUGE_FIELD not in row:
            raise InputError(
                f"{self.log.label}: {name}, row {index}: no field {_ROUGE_FIELD!r} and no texts to score in "
                f"{row!r:.80}: evaluate this row again"
            )
        return row[_ROUGE_FIELD]

    def _scored_texts(self, name: str, index: str, row: Any) -> dict[str, Any] | None:
        """ROUGE of a row's texts; lists of values where it holds lists of texts; None where texts cannot be scored."""
        if not _has_texts(row):
            return None
        where = f"{self.log.label}: {name}, row {index}"
        several = isinstance(row["generation"], list) and isinstance(row["ground_truth"], list)
        generations, answers = (_listed(row[key]) if several else [row[key]] for key in ("generation", "ground_truth"))
        if len(generations) != len(answers) or not answers:
            raise InputError(
                f"{where} has {len(generations)} generations and {len(answers)} answers: evaluate this row again"
            )
        scores = []
        for generation, answer in zip(generations, answers, strict=True):
            checked_text(f"{where}, generation", generation, "evaluate this row again")
            checked_text(f"{where}, ground_truth", answer, "evaluate this row again")
            try:
                scores.append(rouge_scores(generation, answer))
            except InputError:  # an answer without a letter or digit: published code stores 0
                return None
        return {field: [score[field] for score in scores] for field in scores[0]} if several else scores[0]

    def _truth_ratio(self, name: str) -> float:
        scores = self.log.scores(name, minimum=0)
        values = list(scores.values())
        if self.follows_from_losses and self._is_share(name, scores):
            self.remark(name, "its rows are true / (true + false) instead of false / true; aggregated as their mean")
            return float(np.mean(values))
        return forget_truth_ratio(values) if _is_forget_ratio(name) else utility_truth_ratio(values)

    def _is_share(self, name: str, scores: dict[str, float]) -> bool:
        """Whether the rows are true / (true + false), and not TOFU's false / true, as their losses say."""
        set_name = name[: -len("_truth_ratio")]
        plain, paraphrased, wrong = (f"{set_name}_Q_A_{kind}Prob" for kind in ("", "PARA_", "PERT_"))
        correct = paraphrased if paraphrased in self.log else plain
        missing = [part for part in (correct, wrong) if part not in self.log]
        if missing:
            if any(part in self.log for part in (paraphrased, wrong, f"{plain}_normalised")):
                self.remark(
                    name, f"cannot be compared with the losses it follows from: {', '.join(missing)} is missing"
                )
            return False
        if not all(_has_losses(self.log.rows(part)) for part in (correct, wrong)):
            return False
        correct_losses, wrong_losses = (self.log.numbers(part, "avg_loss") for part in (correct, wrong))
        for part in (correct, wrong):
            self.log.check_same_rows(name, part)
        true = np.exp([-correct_losses[index] for index in scores])
        false = np.exp([-wrong_losses[index] for index in scores])
        stored = np.array(list(scores.values()))
        ratios, shares = false / (true + EPSILON), true / (true + false + EPSILON)
        if not _close(stored, ratios).all() and _close(stored, shares).all():
            return True
        different = self._check_rows(
            name, scores, dict(zip(scores, ratios.tolist(), strict=True)), f"the losses of {correct} and {wrong}"
        )
        if different and correct == plain and set_name.lower() in ("forget", "retain"):
            raise InputError(
                f"{self.log.label}: {name} does not follow from {plain}, and {paraphrased} is missing: pass the whole "
                "log"
            )
        return False

    def _check_rows(self, name: str, stored: dict[str, float], expected: dict[str, float], source: str) -> int:
        different = [index for index in stored if not _close(stored[index], expected[index])]
        if different:
            first = different[0]
            self.remark(
                name,
                f"{len(different)} of {len(stored)} stored rows contradict {source}, and are used; row {first}: "
                f"{stored[first]} stored, {expected[first]} expected",
            )
        return len(different)

    def recompute_attacks(self) -> None:
        attacks = [name for name in self.log.log if name.startswith("mia_")]
        for name in attacks:
            for group in ("forget", "holdout"):
                self.log.check_same_rows(attacks[0], name, group)
            self.summary[name] = _membership_auc(self.log, name)

    def compare(self, retain_log: LogRows | None) -> None:
        ratio = next((name for name in self.log.log if _is_forget_ratio(name)), None)
        if retain_log is None:
            self._require("forget_quality", [] if ratio else ["forget_truth_ratio"])
            self.remark(
                "forget_quality",
                "needs --retain_logs, the evaluation log of a model trained without the forget rows",
            )
        else:
            self._compare_truth_ratios(ratio, retain_log)
        if _PRIVLEAK_ATTACK not in self.summary:
            self.remark("privleak", f"needs {_PRIVLEAK_ATTACK}, which the log lacks")
            return
        reference, source = 0.5, "no --retain_logs is given"
        if retain_log is not None:
            source = f"{retain_log.label} holds no {_PRIVLEAK_ATTACK}"
            if _PRIVLEAK_ATTACK in retain_log:
                reference, source = _membership_auc(retain_log, _PRIVLEAK_ATTACK), ""
        if reference == 1:
            self.remark("privleak", f"undefined: {retain_log.label} has the {_PRIVLEAK_ATTACK} AUC 1.0")
            return
        self.summary["privleak"] = privleak(self.summary[_PRIVLEAK_ATTACK], reference)
        if source:
            self.remark("privleak", f"relative to the AUC 0.5, since {source}")

    def _compare_truth_ratios(self, ratio: str | None, retain_log: LogRows) -> None:
        retain_ratio = next((name for name in retain_log.log if _is_forget_ratio(name)), None)
        if ratio is None and retain_ratio is None:  # the data has nothing to compare, whoever is judged on it
            self.remark("forget_quality", "needs forget rows with perturbed answers")
            return
        for log, name in ((self.log, ratio), (retain_log, retain_ratio)):
            if name is None:
                raise InputError(
                    f"{log.label} has no forget_truth_ratio, which forget_quality compares: evaluate this model on the "
                    "forget rows with perturbed answers"
                )
        scores, retain_scores = self.log.scores(ratio, minimum=0), retain_log.scores(retain_ratio, minimum=0)
        check_same_rows(
            f"{self.log.label}: {ratio}",
            scores,
            f"{retain_log.label}: {retain_ratio}",
            retain_scores,
            "evaluate both models on the same forget split",
        )
        kinds = [
            self.follows_from_losses and _Recomputation(log, True)._is_share(name, rows)
            for log, name, rows in ((self.log, ratio, scores), (retain_log, retain_ratio, retain_scores))
        ]
        if kinds[0] != kinds[1]:
            raise InputError(
                f"{self.log.label} and {retain_log.label} define forget_truth_ratio differently (false / true, and "
                "true / (true + false)): evaluate both models with the same code"
            )
        self.summary["forget_quality"] = forget_quality(list(scores.values()), list(retain_scores.values()))

    def recompute_utility(self) -> None:
        missing = [name for name in MODEL_UTILITY_PARTS if name not in self.summary]
        if not missing:
            self.summary["model_utility"] = model_utility(self.summary)
            return
        self._require("model_utility", missing)
        parts = "metrics of retain rows, real authors and world facts" if missing == [*MODEL_UTILITY_PARTS] else missing
        self.remark(
            "model_utility", f"needs {parts if isinstance(parts, str) else ', '.join(parts)}, which the log lacks"
        )

    def _require(self, name: str, missing: list[str]) -> None:
        if name in self.log and missing:
            raise InputError(
                f"{self.log.label} stores {name} but has no {', '.join(missing)}, which it follows from: pass the "
                "whole log"
            )

    def compare_with_stored(self) -> None:
        for name, entry in self.log.log.items():
            stored = entry.get("agg_value") if isinstance(entry, Mapping) else None
            if not isinstance(stored, int | float) or isinstance(stored, bool):
                continue
            value = self.summary.get(name)
            if value is None:
                self.remark(name, f"the log stores {stored}")
            elif not math.isclose(value, stored, rel_tol=1e-9, abs_tol=0):
                self.remark(name, f"recomputed {value}, but the log stores {stored}")


def _has_losses(rows: Mapping[str, Any]) -> bool:
    return any(isinstance(row, Mapping) and "avg_loss" in row for row in rows.values())


def _has_texts(row: Any) -> bool:
    return isinstance(row, Mapping) and {"generation", "ground_truth"} <= row.keys()


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _is_forget_ratio(name: str) -> bool:
    return name.lower() == "forget_truth_ratio"


def _close(values: Any, others: Any) -> Any:
    return np.isclose(values, others, rtol=_ROW_TOLERANCE, atol=1e-12)


def _membership_auc(log: LogRows, name: str) -> float:
    return membership_auc(*(list(log.scores(name, group).values()) for group in ("forget", "holdout")))
