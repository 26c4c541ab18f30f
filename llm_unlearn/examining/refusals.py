"""Refusals: does a model refuse the forget questions, and nothing else?

The answers to forget questions and to instructions are generated anyway. Of retained questions a sample is answered
besides, of which only the beginning is needed.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from statistics import fmean
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data import encode_prompt, row_format, split_row
from llm_unlearn.examining.abilities import FORGET, INSTRUCTIONS, MOST_ROWS, RETAIN
from llm_unlearn.files.batches import BatchRunner
from llm_unlearn.metrics.refusal import is_refusal
from llm_unlearn.models.judging import Records
from llm_unlearn.models.scoring import generate_answers

FIRST_TOKENS = 32  # of an answer to a retained question: whoever refuses does so at once
RETAIN_ANSWERS = "retain_answers"
FORGET_REFUSALS, RETAIN_REFUSALS = f"{FORGET}_refusals", f"{RETAIN}_refusals"
ANSWERED = "answered"  # the ability, and its score
ANSWERED_LABEL = "answers instead of refusing"
_SAID = {FORGET: "forget_Q_A_ROUGE", RETAIN: RETAIN_ANSWERS, INSTRUCTIONS: "instructions_Q_A_ROUGE"}


def is_asked(retain: Dataset | None) -> bool:
    """Whether there are retained rows that ask something; plain texts do not."""
    return retain is not None and row_format(retain.column_names) != "text"


def retain_answers(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    retain: Dataset | None,
    max_new_tokens: int,
    batch_size: int = 64,
    generation_config: str = "own",
    runner: BatchRunner | None = None,
) -> Records:
    """The first words of greedy answers to at most 100 retained questions, the same ones for every model.

    Returns:
        {"retain_answers": {"value_by_index": {number of the retain row: {"generation": text}}}}; {} without questions.
    """
    if not is_asked(retain):
        return {}
    # Drawn, not spread: in made-up data, every so many rows ask the same.
    numbers = sorted(random.Random(0).sample(range(len(retain)), min(MOST_ROWS, len(retain))))
    form = row_format(retain.column_names)
    prompts = [encode_prompt(processing_class, split_row(row, form)[0]) for row in retain.select(numbers)]
    most = min(FIRST_TOKENS, max_new_tokens)
    texts = generate_answers(
        model, processing_class, prompts, most, batch_size, generation_config=generation_config, runner=runner
    )
    rows = {str(number): {"generation": text} for number, text in zip(numbers, texts, strict=True)}
    return {RETAIN_ANSWERS: {"value_by_index": rows}}


def refusal_records(records: Mapping[str, Any], own: Collection[str] = ()) -> Records:
    """Which of a model's generated answers refuse, by set.

    Args:
        records: of one model.
        own: sentences that count as refusals, too.

    Returns:
        {SET_refusals: record with a `score` of 1 or 0 for each row}, of the sets to which answers were generated.
    """
    found = {}
    for name, metric in _SAID.items():
        if metric in records:
            rows = records[metric]["value_by_index"]
            scores = {row: {"score": float(is_refusal(value["generation"], own))} for row, value in rows.items()}
            mean = fmean(value["score"] for value in scores.values())
            found[f"{name}_refusals"] = {"agg_value": mean, "value_by_index": scores}
    return found


def refusal_shares(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Model -> set -> the share of its questions that are answered with a refusal.

    Args:
        records: of every model, with those of `refusal_records`.
    """
    return {
        model: {
            name: fmean(row["score"] for row in by_metric[key]["value_by_index"].values())
            for name in _SAID
            if (key := f"{name}_refusals") in by_metric
        }
        for model, by_metric in records.items()
    }


def refusal_words(records: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What the unlearned model refuses, in one line; None where nobody looked."""
    shares = refusal_shares(records)
    names = {FORGET: "the forgotten questions", RETAIN: "the retained ones", INSTRUCTIONS: "the instructions"}
    own, original = shares.get("unlearned") or {}, shares.get("original") or {}
    parts = [
        f"{own[name]:.2f} of {words}" + (f" (original {original[name]:.2f})" if name in original else "")
        for name, words in names.items()
        if name in own
    ]
    return f"it refuses {', '.join(parts)}" if parts else None
