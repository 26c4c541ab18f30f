"""Plain words for names in results.json, and the scores of an attack by variant: what page and figures share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llm_unlearn.attacks import attack_label

_SCORES = {
    "forget_knowledge": "knowledge",
    "forget_exact_match": "exact match",
    "forget_probability": "answer probability",
    "forget_rouge_l": "ROUGE-L recall",
    "forget_value_said": "value said",
    "forget_truth_ratio": "truth ratio",
    "retain_exact_match": "retain: exact match",
    "retain_probability": "retain: answer probability",
    "retain_knowledge": "retain: knowledge",
    "well_formed": "share well formed",
    "answered": "share answered",
    "probes": "share read off",
    "depth": "UDS: 0 the original, 1 the oracle",
    "consistency": "consistency: 0 the original, 1 the oracle",
}
_LEAK = "forget_leak_at_"
NOTHING = "\N{EN DASH}"  # where nothing was measured


def number_words(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """A number with a true minus sign, or a dash for None and NaN."""
    if value is None or math.isnan(value):
        return NOTHING
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    zero = not float(text)  # of "-0.000", the sign would say more than was measured
    return (text.lstrip("+-") if zero else text).replace("-", "\N{MINUS SIGN}")


def attack_words(attack: str) -> str:
    """What tables call an attack: "adversarial_reinjection" -> "reinjection"."""
    return attack_label(attack)


def variant_words(variant: str) -> str:
    """A variant in words: "temperature_1.0" -> "temperature 1.0"."""
    return variant.replace("_", " ")


def score_words(score: str) -> str:
    """A score in words; forget scores need no prefix: "forget_leak_at_8" -> "leaked in 8 samples"."""
    if score.startswith(_LEAK):
        return f"leaked in {score.removeprefix(_LEAK)} sample{'' if score == f'{_LEAK}1' else 's'}"
    return _SCORES.get(score, score.replace("_", " "))


def rouge_words(results: Mapping[str, Any]) -> str | None:
    """Which answers ROUGE did not see by the English tokenizer of published numbers; None where there are none."""
    by_set = results.get("rouge_tokenizers") or {}
    parts = [
        f"{counts['unicode']} of {sum(counts.values())} {name.replace('_', ' ')} answers"
        for name, counts in by_set.items()
        if counts.get("unicode")
    ]
    words = "by words of any script, or characters where it sets no spaces, not by the published tokenizer for English"
    return f"{', '.join(parts)} {words}" if parts else None


def generation_words(results: Mapping[str, Any]) -> str | None:
    """How judged answers were generated; None where nothing was generated, or nobody noted how."""
    by_model = results.get("generation") or {}
    choices = dict.fromkeys(settings.get("generation_config") for settings in by_model.values())
    words = {"own": "plain greedy decoding", "model": "by each model's generation_config.json, not sampled"}
    return ", ".join(words[choice] for choice in choices if choice in words) or None


def scores_by_variant(by_model: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Variant -> model -> scores of one attack; "" is the whole of a relearning attack, before groups left out.

    Args:
        by_model: model -> outcome, as in results["attacks"][attack]; models need not have the same variants.
    """
    variants: dict[str, dict[str, dict[str, Any]]] = {}
    for model, outcome in by_model.items():
        if not outcome:
            continue
        if "variants" in outcome:
            parts = outcome["variants"]
        else:
            parts = {"": outcome} | {f"{group} left out": own for group, own in (outcome.get("groups") or {}).items()}
        for variant, scores in parts.items():
            variants.setdefault(variant, {})[model] = scores
    return variants
