"""The sample answers of the report: what each model says to some of the forget questions, before and after attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_unlearn.data.identity import label
from llm_unlearn.examining.results import MODELS
from llm_unlearn.reporting.words import attack_words

SAMPLES = 8  # facts whose answers are shown
_LONGEST_TEXT = 600  # characters of a question or an answer

Json = Mapping[str, Any]


def samples_section(results: Json, records: Mapping[str, Json], forget: Sequence[Json]) -> list[dict[str, Any]]:
    """Question, true answer and what each model says, for some facts; empty where no answers were generated.

    The facts are spread evenly over the forget set and not chosen by outcome. Where answers after an attack were kept,
    they come from the facts that have one.

    Args:
        records: model -> contents of records/<model>.json.
        forget: rows of forget.jsonl; where there are none, records still know the true answers.
    """
    speakers = {model: found for model in MODELS if (found := _generations(records.get(model) or {}))}
    attacked = _answers_after_attacks(results)
    rows = sorted({row for found in [*speakers.values(), *attacked.values()] for row in found})
    samples = []
    for row in _spread(_one_per_fact(_with_attack(rows, attacked), forget)):
        asked = forget[row] if row < len(forget) else {}
        truth = asked.get("answer") or next((found[row][1] for found in speakers.values() if row in found), None)
        said = {model: found[row][0] for model, found in speakers.items() if row in found}
        said |= {speaker: found[row] for speaker, found in attacked.items() if row in found}
        samples.append(
            {
                "question": _shortened(asked.get("question")) or f"forget row {row}",
                "truth": _shortened(truth),
                "answers": [
                    {"who": who, "text": _shortened(text), "true": _same(text, truth)} for who, text in said.items()
                ],
            }
        )
    return samples


def _generations(by_metric: Json) -> dict[int, tuple[str, str | None]]:
    """Row -> generated answer and true answer."""
    by_index = (by_metric.get("forget_Q_A_ROUGE") or {}).get("value_by_index") or {}
    return {
        int(row): (value["generation"], value.get("ground_truth"))
        for row, value in by_index.items()
        if value.get("generation") is not None
    }


def _answers_after_attacks(results: Json) -> dict[str, dict[int, str]]:
    """ "unlearned, after reinjection (60 steps)" -> row -> answer."""
    found: dict[str, dict[int, str]] = {}
    attacks = results.get("attacks") or {}
    for attack in sorted(attacks, key=lambda name: name != "adversarial_reinjection"):  # the one that decides is first
        for model in ("unlearned", "oracle"):
            if answers := _strongest_answers((attacks[attack] or {}).get(model) or {}):
                who = f"{model}, after {attack_words(attack)} ({answers['step']} steps)"
                found[who] = {int(row): text for row, text in answers["by_index"].items()}
    return found


def _strongest_answers(outcome: Json) -> Json | None:
    """Those of the attacker and learning rate that count; every one of them keeps some."""
    for run in outcome.get("runs") or []:
        counts = all(run.get(name) == outcome.get(name, run.get(name)) for name in ("attacker", "learning_rate"))
        if counts and run.get("answers"):
            return run["answers"]
    return None


def _with_attack(rows: list[int], attacked: Mapping[str, Mapping[int, str]]) -> list[int]:
    """Only the rows that the first attack with answers scored; all where there is none."""
    first = next(iter(attacked.values()), None)
    return rows if first is None else [row for row in rows if row in first]


def _one_per_fact(rows: Sequence[int], forget: Sequence[Json]) -> list[int]:
    """The first row of each fact: other wordings of one question show little more."""
    first: dict[Any, int] = {}
    for row in rows:
        fact = label(forget[row], "fact_id") if row < len(forget) else None
        first.setdefault(("row", row) if fact is None else ("fact", fact), row)
    return list(first.values())


def _spread(rows: Sequence[int]) -> list[int]:
    count = min(SAMPLES, len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]


def _shortened(text: str | None) -> str | None:
    return f"{text[:_LONGEST_TEXT]} …" if text and len(text) > _LONGEST_TEXT else text


def _same(text: str | None, truth: str | None) -> bool:
    return bool(text and truth) and text.strip() == truth.strip()
