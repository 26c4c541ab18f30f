"""The metrics as `evaluate.Metric`s, for code that is written against Hugging Face's `evaluate` library.

They add, combine and gather over processes as that library does; the numbers come from the functions of this package,
and nothing is downloaded.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value
from datasets import Sequence as ListOf

from llm_unlearn import metrics
from llm_unlearn.errors import InputError

_NUMBER, _NUMBERS, _TEXT = Value("float64"), ListOf(Value("float64")), Value("string")


@dataclass(frozen=True)
class _Definition:
    """How a function becomes a metric."""

    function: Callable[..., Any]
    # Input -> feature of one row, in the order of the function's leading parameters.
    inputs: Mapping[str, Any]
    # Keyword of compute() -> the function's parameter. `evaluate.combine` hands every keyword to every metric, so one
    # keyword means one thing in this whole file.
    options: Mapping[str, str] = field(default_factory=dict)
    # Whether the function takes one row (then scores are averaged here) or whole columns.
    by_row: bool = False

    @property
    def required_options(self) -> list[str]:
        parameters = inspect.signature(self.function).parameters
        return [option for option, name in self.options.items() if parameters[name].default is inspect.Parameter.empty]


def _model_utility(parts: Sequence[str], part_values: Sequence[float]) -> float:
    """`llm_unlearn.metrics.model_utility` of one model, one part per row: its name and its aggregate."""
    if repeated := sorted({part for part in parts if parts.count(part) > 1}):
        raise InputError(f"parts names {', '.join(repeated)} more than once: add one value per part")
    return metrics.model_utility(dict(zip(parts, part_values, strict=True)))


def _knowledge(true_logps: Sequence[float], made_up_logps: Sequence[Sequence[float]]) -> float:
    """`llm_unlearn.metrics.knowledge` of rows: the true answer's log-probability per token, and the made-up ones'."""
    pairs = zip(true_logps, made_up_logps, strict=True)
    known = metrics.knowledge({str(i): {"wins": metrics.knowledge_wins(*pair)} for i, pair in enumerate(pairs)})
    if known is None:
        raise InputError("made_up_logps has no value in any row: give one row or more something to be compared with")
    return known


_TEXTS = {"predictions": _TEXT, "references": _TEXT}
_TOKENS = {"token_logps": _NUMBERS}
_COMPAT = {"compat": "compat"}
_MIN_K = {"min_k": "k"}

_DEFINITIONS = {
    "probability": _Definition(metrics.probability, {"nll": _NUMBER, "length": _NUMBER}),
    "probability_with_options": _Definition(metrics.probability_with_options, {"correct": _NUMBER, "wrong": _NUMBERS}),
    "exact_match": _Definition(metrics.exact_match, _TEXTS, by_row=True),
    "rouge": _Definition(metrics.rouge_scores, _TEXTS, {"tokenizer": "tokenizer"}, by_row=True),
    "truth_ratio": _Definition(metrics.truth_ratio, {"correct_losses": _NUMBER, "perturbed_losses": _NUMBERS}),
    "forget_truth_ratio": _Definition(metrics.forget_truth_ratio, {"ratios": _NUMBER}),
    "utility_truth_ratio": _Definition(metrics.utility_truth_ratio, {"ratios": _NUMBER}),
    "forget_quality": _Definition(metrics.forget_quality, {"ratios": _NUMBER}, {"retain_ratios": "retain_ratios"}),
    "exact_memorization": _Definition(metrics.exact_memorization, {"token_hits": _NUMBERS}, _COMPAT, by_row=True),
    "extraction_strength": _Definition(metrics.extraction_strength, {"token_hits": _NUMBERS}, _COMPAT, by_row=True),
    "knowledge": _Definition(_knowledge, {"true_logp": _NUMBER, "made_up_logps": _NUMBERS}),
    "leak_at_k": _Definition(metrics.leak_at_k, {"nll": _NUMBER}, {"k": "k"}),
    "loss_score": _Definition(metrics.loss_score, {"nll": _NUMBER, "length": _NUMBER}),
    "zlib_score": _Definition(metrics.zlib_score, {"average_loss": _NUMBER, "text": _TEXT}, by_row=True),
    "min_k_score": _Definition(metrics.min_k_score, _TOKENS, _MIN_K, by_row=True),
    "min_k_plus_plus_score": _Definition(
        metrics.min_k_plus_plus_score,
        {**_TOKENS, "vocabulary_means": _NUMBERS, "vocabulary_variances": _NUMBERS},
        _MIN_K,
        by_row=True,
    ),
    "gradient_norm_score": _Definition(metrics.gradient_norm_score, {"parameter_norms": _NUMBERS}, by_row=True),
    "reference_score": _Definition(
        metrics.reference_score, {"average_loss": _NUMBER, "reference_average_loss": _NUMBER}
    ),
    "membership_auc": _Definition(
        metrics.membership_auc, {"forget_scores": _NUMBER}, {"holdout_scores": "holdout_scores"}
    ),
    "privleak": _Definition(metrics.privleak, {"auc": _NUMBER}, {"reference_auc": "reference_auc"}, by_row=True),
    "model_utility": _Definition(_model_utility, {"parts": _TEXT, "part_values": _NUMBER}),
}
# What `evaluate.combine` may pass to a metric that has no use for it.
_KEYWORDS = {keyword for definition in _DEFINITIONS.values() for keyword in (*definition.inputs, *definition.options)}

EVALUATE_METRICS = tuple(_DEFINITIONS)


def evaluate_metric(name: str, **settings: Any) -> evaluate.Metric:
    """The metric called `name`, one of `EVALUATE_METRICS`, as an `evaluate.Metric`; needs no network.

    Rows go in through `compute`, `add_batch` or `add` under the metric's input names (see `.features`); a sample that
    is no row of its own (`holdout_scores`, `retain_ratios`) and options (`compat`, `k`, `min_k`, `reference_auc`,
    `tokenizer`) are keywords of `compute`. The result is {name: mean over rows}, or the function's own aggregate where
    it has one; "rouge" gives one entry per kind, and splits each answer by the tokenizer that suits it unless one is
    given. "privleak" takes one AUC per model and "model_utility" one part per row: `parts` names it, `part_values`
    holds its aggregate. Rows that the function scores None are left out of the mean.

    Metrics work in `evaluate.combine`: each takes its own among all keywords. `settings` are those of `evaluate.Metric`
    (such as `num_process` and `experiment_id`); in one process rows are kept in memory by default.

    Raises InputError for an unknown name. `compute` raises it for a keyword that no metric has, an input or option that
    is missing, no rows at all, and whatever the function rejects; `evaluate` itself raises ValueError for columns of
    different lengths and values of another type.
    """
    if name not in _DEFINITIONS:
        choices = ", ".join(EVALUATE_METRICS)
        raise InputError(f"metric {name!r} is unknown{_hint(name, EVALUATE_METRICS)}: choose one of {choices}")
    settings.setdefault("keep_in_memory", settings.get("num_process", 1) == 1)
    return _FunctionMetric(name, **settings)


class _FunctionMetric(evaluate.Metric):
    def __init__(self, name: str, **settings: Any):
        self._name = name
        self._definition = _DEFINITIONS[name]
        super().__init__(**settings)

    @property
    def name(self) -> str:
        return self._name  # `evaluate` would make it from the name of the class

    def _info(self) -> evaluate.MetricInfo:
        required = self._definition.required_options
        options = [f"{option} (required)" if option in required else option for option in self._definition.options]
        return evaluate.MetricInfo(
            description=inspect.getdoc(self._definition.function),
            citation="",
            inputs_description=(
                f"\nInputs, one per row: {', '.join(self._definition.inputs)}. "
                f"Keywords of compute: {', '.join(options) or 'none'}."
            ),
            features=Features(dict(self._definition.inputs)),
        )

    def compute(self, *, predictions=None, references=None, **keywords) -> dict[str, float] | None:
        """Score all rows that were added and those passed here, then start over."""
        # Checked before `evaluate` closes its store: a slip in a keyword must not cost the rows that were added.
        for keyword in keywords:
            if keyword not in _KEYWORDS:
                takes = ", ".join([*self._definition.inputs, *self._definition.options])
                hint = _hint(keyword, _KEYWORDS)
                raise InputError(f"{self.name} got an unknown keyword {keyword!r}{hint}: it takes {takes}")
        given = {"predictions": predictions, "references": references, **keywords}
        given = {keyword: value for keyword, value in given.items() if value is not None}
        inputs = {name: given[name] for name in self._definition.inputs if name in given}
        missing = [name for name in self._definition.inputs if name not in given]
        if missing and (inputs or self.writer is None):
            needs = ", ".join(self._definition.inputs)
            raise InputError(f"{self.name} lacks {', '.join(missing)}: pass {needs}, one value per row")
        options = {name: given[name] for name in self._definition.options if name in given}
        for option in self._definition.required_options:
            if option not in options:
                raise InputError(f"{self.name} lacks {option}: pass {option}=... to compute")
        return super().compute(**inputs, **options)

    def _compute(self, **values: Any) -> dict[str, float]:
        definition = self._definition
        columns = [values[name] for name in definition.inputs]
        options = {parameter: values[option] for option, parameter in definition.options.items() if option in values}
        if not definition.by_row:
            return {self.name: float(np.mean(definition.function(*columns, **options)))}
        rows = enumerate(zip(*columns, strict=True))
        scores = [_row_score(definition.function, index, row, options) for index, row in rows]
        scores = [score for score in scores if score is not None]
        if not scores:
            raise InputError(f"{self.name} has no row with a score: add at least one")
        if isinstance(scores[0], Mapping):
            return {kind: float(np.mean([score[kind] for score in scores])) for kind in scores[0]}
        return {self.name: float(np.mean(scores))}


def _hint(word: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(word, sorted(known), n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def _row_score(function: Callable[..., Any], index: int, row: Sequence[Any], options: Mapping[str, Any]) -> Any:
    try:
        return function(*row, **options)
    except InputError as error:
        raise InputError(f"row {index}: {error}") from error
