"""The combinatorial laboratory in numbers: what is printed, and table.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_unlearn.reporting.influence_table import Section
from llm_unlearn.reporting.words import NOTHING, number_words

LABELS = {
    "original": "original",
    "oracle": "oracle (never knew)",
    "other_oracle": "oracle, another start",
    "gradient_ascent": "gradient ascent",
    "graddiff": "GradDiff",
    "npo": "NPO",
    "npo_small_steps": "NPO, small steps",
    "task_vector": "task vector",
    "relabel": "relabel",
    "distill_warm": "distillation, warm",
    "distill_fresh": "distillation, fresh",
    "attribution": "attribution-regularized",
    "attribution_shuffled": "shuffled attribution (control)",
}
_OUTPUTS = {
    "target_true_positive_rate": ("target TPR", 2),
    "other_true_positive_rate": ("others' TPR", 2),
    "true_negative_rate": ("TNR", 2),
    "steps": ("steps", 0),
}
_WEIGHTS = {
    "keep": ("keep", 2),
    "published_keep": ("keep, as published", 2),
    "other_keep": ("others' keep", 2),
    "strength": ("S_c", 1),
    "null": ("null", 1),
    "strength_over_null": ("S_c / null", 1),
    "pattern": ("pattern", 2),
}
_RECOVERY = {
    "recovery_target": ("target rows", 0),
    "recovery_all": ("all clauses", 0),
    "recovery_unrelated": ("unrelated clauses", 0),
    "reversal": ("reversal", 2),
}

_INSIDE = {
    "probe": ("probe", 2),
    "consistency": ("consistency", 2),
    "kept_consistency": ("the same, kept rows", 2),
    "aligned_consistency": ("aligned", 2),
    "direction": ("direction", 2),
    "depth": ("depth", 2),
}

_REGULARIZER = (
    "steps",
    "target_true_positive_rate",
    "other_true_positive_rate",
    "keep",
    "strength_over_null",
    "recovery_target",
)


def laboratory_sections(results: Mapping[str, Any]) -> list[Section]:
    """The tables of a combinatorial.json: outputs, weights, recovery, and the weight of the regularizer."""
    models = {LABELS[name]: found for name, found in results["models"].items()}
    order = [label for label in LABELS.values() if label in models]
    models = {label: models[label] for label in order}
    cap = results["config"]["laboratory"]["recovery_steps"]
    seeds = results["config"]["laboratory"]["seeds"]
    over = f"Medians over {seeds} seeds and, in brackets, a 95 % interval of the median (the range below 6 seeds)."
    return [
        _section(
            "what the networks say",
            models,
            _OUTPUTS,
            cap,
            f"{over} TPR: rows fulfilling one clause alone that are called positive; TNR: rows without any, called "
            "negative. Steps of unlearning; of a task vector, its scale.",
        ),
        _section(
            "what the weights hold of the target clause",
            models,
            _WEIGHTS,
            cap,
            f"{over} keep: share of the original's code neurons that still are. As published: by the threshold that "
            "depends on a neuron's scale. Null: S_c of random inputs. Pattern: correlation with the original of what "
            "the target does to each neuron, excited or inhibited.",
        ),
        _section(
            "steps of fine-tuning until the target is back",
            {label: found for label, found in models.items() if label != LABELS["original"]},
            _RECOVERY,
            cap,
            f"{over} By what was fine-tuned on. Reversal: cosine of the way back (target rows) with the way to the "
            "original.",
        ),
        _section(
            "what audits of the hidden layer say",
            models,
            _INSIDE,
            cap,
            f"{over} Probe: share of target rows and hard negatives that a linear readout tells apart. Consistency and "
            "depth: 0 of the original, 1 of the oracle.",
        ),
        _section(
            "do they say what the weights say?",
            results["agreement"],
            {"keep": ("keep", 2), "pattern": ("pattern", 2), "recovery_target": ("steps back (target rows)", 2)},
            None,
            f"{over} Spearman's rank correlation over the methods of the other tables.",
            "audit",
        ),
        _section(
            "the regularizer by its weight",
            {
                f"{LABELS[kind]}: {weight}": found
                for kind, by_weight in results["regularizer"].items()
                for weight, found in by_weight.items()
            },
            {name: (_OUTPUTS | _WEIGHTS | _RECOVERY)[name] for name in _REGULARIZER},
            cap,
            f"{over} NPO with retain rows is the weight 0. Control: each neuron has another one's influence gradient.",
        ),
    ]


def _section(
    title: str,
    models: Mapping[str, Any],
    columns: Mapping[str, tuple[str, int]],
    cap: int | None,
    caption: str,
    first: str = "network",
) -> Section:
    rows = []
    for label, found in models.items():
        caps = {name: cap if name.startswith("recovery") else None for name in columns}
        rows.append([label, *(_cell(found.get(name), digits, caps[name]) for name, (_, digits) in columns.items())])
    return Section(title, [first, *(words for words, _ in columns.values())], rows, caption)


def _cell(found: Mapping[str, Any] | None, digits: int, cap: int | None) -> str:
    """Median and interval; a recovery that took more than `cap` steps has no number."""
    if found is None:
        return NOTHING

    def words(value: float | None) -> str:
        if value is None:
            return NOTHING if cap is None else f">{cap}"
        return number_words(value, 1 if digits == 0 and value % 1 else digits)

    low, high = (words(end) for end in found["interval"])
    middle = words(found["agg_value"])
    return middle if low == middle == high else f"{middle} [{low}, {high}]"
