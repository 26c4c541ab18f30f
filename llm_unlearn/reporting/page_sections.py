"""What the sections of the report say: from results.json, verdict.json and records to plain words and numbers.

The template only arranges what these functions return; it escapes every text, so none is trusted here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from llm_unlearn.examining.evidence import KNOWLEDGE, Evidence
from llm_unlearn.examining.inside import INSIDE
from llm_unlearn.examining.results import MODELS, model_entries
from llm_unlearn.reporting.comparisons import Price, Style, price_words, prices_of, styles_of
from llm_unlearn.reporting.words import (
    NOTHING,
    generation_words,
    number_words,
    rouge_words,
    score_words,
    scores_by_variant,
    variant_words,
)

_KINDS = {
    "output": "Before any attack",
    "attack": "Asked otherwise, or attacked",
    "counterfactual": "Counterfactual control",
    INSIDE: "Inside the model, whatever it says",
}
_ABILITY_SCORES = {"exact_match": "exact match", "probability": "answer probability", "rouge_l": "ROUGE-L recall"}
_MARKS = {"lost": "×", "kept": "✓", "?": "?"}  # noqa: RUF001
_SIGNS = {"erased": "✓", "hidden": "!", "not forgotten": "×", "over-unlearned": "↓", "undecided": "?"}  # noqa: RUF001

Json = Mapping[str, Any]


def verdict_section(verdict: Json) -> dict[str, Any]:
    """Badge, sentence and lists; the words of `by` say which reference carries the verdict."""
    word = verdict.get("verdict") or "undecided"
    return {
        "word": word,
        "sign": _SIGNS.get(word, "?"),
        "style": word.replace(" ", "-") if word in _SIGNS else "undecided",
        "sentence": verdict.get("sentence") or "",
        "by": verdict.get("by"),
        "reasons": (verdict.get("reasons") or [])[1:],  # the first is in the sentence
        "remarks": verdict.get("remarks") or [],
        "missing": verdict.get("missing") or [],
    }


def cost_section(verdict: Json) -> dict[str, Any]:
    """What forgetting cost: one sentence, and a row per ability with the scores of each model; fluency is the last."""
    prices = prices_of(verdict)
    return {"sentence": price_words(prices), "rows": [_price_row(price) for price in prices]}


def _price_row(price: Price) -> dict[str, Any]:
    scores = [
        {
            "score": _ABILITY_SCORES.get(score, score_words(score)),
            "numbers": [number_words(getattr(finding, model), 2) for model in MODELS],
            "share": percent_words(finding.share),
        }
        for score, finding in price.by_score.items()
    ]
    return {
        "label": price.label,
        "note": price.note,
        "scores": scores,
        "share": percent_words(price.share),
        "width": round(100 * min(1.0, max(0.0, price.share or 0.0))),  # of the bar, in %
        "word": price.word or "nothing to lose",
        "mark": _MARKS.get(price.word, ""),
        "style": {"lost": "flagged", "?": "unsure"}.get(price.word, ""),
    }


def evidence_section(verdict: Json) -> list[dict[str, Any]]:
    """A group for each kind of evidence; in it the styles and attacks, each with a row per score."""
    styles = styles_of(verdict)
    groups = []
    for kind in dict.fromkeys(style.kind for style in styles):
        own = [style for style in styles if style.kind == kind]
        groups.append({"title": _KINDS.get(kind, kind), "styles": [_style_rows(style) for style in own]})
    return groups


def has_knowledge(verdict: Json) -> bool:
    """Whether true answers were compared with made-up ones."""
    return any(KNOWLEDGE in style.by_score for style in styles_of(verdict))


def has_selectivity(verdict: Json) -> bool:
    """Whether retained facts were asked like forgotten ones."""
    return any(style.selectivity is not None for style in styles_of(verdict))


def _style_rows(style: Style) -> dict[str, Any]:
    label = style.label
    if style.variant and variant_words(style.variant) not in label:
        label = f"{label}: {variant_words(style.variant)}"
    return {
        "label": label,
        "rows": [_evidence_row(score, finding) for score, finding in style.by_score.items()],
    }


def _evidence_row(score: str, finding: Evidence) -> dict[str, Any]:
    intervals = {"unlearned": finding.unlearned_interval}
    return {
        "score": score_words(score),
        "numbers": [(number_words(getattr(finding, model)), interval_words(intervals.get(model))) for model in MODELS],
        "excess": number_words(finding.excess, signed=True),
        "interval": interval_words(finding.interval),
        "erasure": number_words(finding.erasure, 2),
        "selectivity": number_words(finding.selectivity, signed=True),
        "selectivity_interval": interval_words(finding.selectivity_interval),
        "decides": finding.decides,
        "flagged": finding.flagged,
        "note": finding.note,
        "rows": finding.rows,
    }


def percent_words(share: float | None) -> str:
    """ "97 %", or a dash for None."""
    return NOTHING if share is None else f"{share:.0%}".replace("%", "\N{NO-BREAK SPACE}%")


def interval_words(interval: Sequence[float] | None) -> str | None:
    """ "[0.200, 0.400]", or None."""
    return "[{}, {}]".format(*map(number_words, interval)) if interval else None


def control_section(results: Json) -> list[dict[str, Any]]:
    """A row per model and score of the counterfactual control."""
    rows = []
    for model, outcome in (results.get("counterfactual") or {}).items():
        for score in ("probability", "exact_match"):
            if not outcome or not outcome.get(score):
                continue
            after, before = outcome[score], (outcome.get("excess_before") or {}).get(score) or {}
            rows.append(
                {
                    "model": model,
                    "score": score_words(f"forget_{score}"),
                    "true": number_words(after.get("recovered")),
                    "made_up": number_words(after.get("recovered_counterfactual")),
                    "excess": number_words(after.get("excess"), signed=True),
                    "interval": interval_words(after.get("interval")),
                    "p": number_words(after.get("p_value"), 4),
                    "before": number_words(before.get("excess"), signed=True),
                    "interval_before": interval_words(before.get("interval")),
                }
            )
    return rows


def attacks_section(results: Json) -> list[dict[str, Any]]:
    """For each attack its title, its variants, each with rows (score and the mean of each model), and notes."""
    sections = []
    for attack, by_model in (results.get("attacks") or {}).items():
        by_model = {model: outcome for model, outcome in (by_model or {}).items() if outcome}
        variants = [
            {"name": variant_words(variant) or "all", "rows": _attack_rows(scores)}
            for variant, scores in scores_by_variant(by_model).items()
        ]
        variants = [variant for variant in variants if variant["rows"]]
        notes = [f"{model}: {outcome['note']}" for model, outcome in by_model.items() if outcome.get("note")]
        if variants or notes:
            sections.append({"title": attack.replace("_", " ").capitalize(), "variants": variants, "notes": notes})
    return sections


def _attack_rows(by_model: Json) -> list[dict[str, Any]]:
    entries = {model: model_entries(dict(by_model), model) for model in MODELS}
    everything = [entry for found in entries.values() for entry in found]
    scores = dict.fromkeys(
        key
        for entry in everything
        for key, value in entry.items()
        if key.startswith(("forget_", "retain_")) and not isinstance(value, (list, dict))  # "retain_units" are no score
    )
    rows = []
    for score in scores:
        means = {model: _mean(found, score) for model, found in entries.items()}
        oracle, unlearned = means["oracle"], means["unlearned"]
        excess = None if oracle is None or unlearned is None else unlearned - oracle
        numbers = [number_words(mean) for mean in means.values()]
        rows.append({"score": score_words(score), "numbers": numbers, "excess": number_words(excess, signed=True)})
    if any("steps_to_half" in entry for entry in everything):
        numbers = [_steps(found) for found in entries.values()]
        rows.append({"score": "steps to half of the original's probability", "numbers": numbers, "excess": NOTHING})
    if any("learning_rate" in entry for entry in everything):
        numbers = [", ".join(dict.fromkeys(map(_attacker, found))) or NOTHING for found in entries.values()]
        rows.append({"score": "strongest attacker and learning rate", "numbers": numbers, "excess": NOTHING})
    return rows


def _mean(entries: Sequence[Json], score: str) -> float | None:
    found = [entry[score] for entry in entries if entry.get(score) is not None]
    return fmean(found) if found else None


def _steps(entries: Sequence[Json]) -> str:
    found = [entry["steps_to_half"] for entry in entries if "steps_to_half" in entry]
    return ", ".join("never" if steps is None else str(steps) for steps in dict.fromkeys(found)) or NOTHING


def _attacker(entry: Json) -> str:
    return " ".join(str(entry[key]) for key in ("attacker", "learning_rate") if key in entry)


def run_section(results: Json) -> list[tuple[str, str]]:
    """Name and value of what was run; what is unknown is left out."""
    paths, training = results.get("paths") or {}, results.get("training") or {}
    data = next((group["data"] for group in (results.get("config") or {}).values() if "data" in group), None)
    seconds = results.get("seconds") or {}
    facts = {
        "method": results.get("method"),
        "seed": results.get("seed"),
        "data": data,
        "unlearning steps": training.get("steps"),
        "stopped by": training.get("stopped_by"),
        "original model": paths.get("original"),
        "oracles": ", ".join(paths.get("oracles") or []) or "none",
        "unlearned model": paths.get("unlearned"),
        "forget rows": paths.get("forget"),
        "retain rows": paths.get("retain"),
        "generation": generation_words(results),
        "ROUGE-L": rouge_words(results),
        "seconds": ", ".join(f"{stage.replace('_', ' ')} {value:.1f}" for stage, value in seconds.items()) or None,
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]
