"""Fluency: is what a model says instead of a forgotten answer an answer at all?

A model that never knew makes up something of the right kind; many unlearned ones say "the the the". An answer is well
formed if the *original* model, asked the same question, finds it no less likely per token than the 5th percentile of
what the oracle answers there (without an oracle: of what the original itself answers about made-up names), and repeats
nothing more than thrice in a row. A refusal is well formed, however unlikely the original finds it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data import encode_dataset, encode_prompt, row_format, split_row
from llm_unlearn.data.formats import Prompt
from llm_unlearn.data.identity import people_of
from llm_unlearn.metrics.rouge import characters_apart
from llm_unlearn.models.scoring import generate_answers, score_answers

FLUENCY = "forget_fluency"  # records of every model
MADE_UP_NAMES = "made_up_names_fluency"  # records of the original: its answers about people who do not exist
PERCENTILE = 5
MOST_REPEATS = 3  # of the same words in a row
_LONGEST_REPEATED = 8  # words
_GENERATION = "forget_Q_A_ROUGE"


def fluency_records(
    original: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    forget: Dataset,
    records: Mapping[str, Mapping],
    *,
    made_up_names: bool,
    max_length: int | None = None,
    max_new_tokens: int = 200,
    generation_config: str = "own",
) -> dict[str, dict[str, dict]]:
    """The greedy answers of several models as the original sees them.

    Args:
        original: the model before unlearning.
        forget: the forget rows.
        records: model -> records with the generated answers to the forget rows.
        made_up_names: also let the original answer the same questions about people who do not exist; where rows name no
            `person`, or questions do not contain the name, there are no such questions.
        generation_config: by which they are answered (see `models.generation`).

    Returns:
        model -> {FLUENCY: record}, and {MADE_UP_NAMES: record} for "original"; a record holds for each row `avg_logp`
        (mean log-probability of its tokens under the original, None for an empty answer) and `repeats`.
    """
    form = row_format(forget.column_names)
    prompts = [split_row(row, form)[0] for row in forget]
    said = {
        (model, FLUENCY): [
            (prompts[int(i)], row["generation"]) for i, row in found[_GENERATION]["value_by_index"].items()
        ]
        for model, found in records.items()
        if _GENERATION in found
    }
    if made_up_names and (renamed := _renamed(prompts, forget)):
        encoded = [encode_prompt(processing_class, prompt) for prompt in renamed]
        texts = generate_answers(
            original, processing_class, encoded, max_new_tokens, generation_config=generation_config
        )
        said["original", MADE_UP_NAMES] = list(zip(renamed, texts, strict=True))
    rows = [
        {"text": text} if form == "text" else {"prompt": prompt, "completion": text}
        for pairs in said.values()
        for prompt, text in pairs
        if text.strip()
    ]
    encoded = encode_dataset(rows, processing_class, max_length, "generated answers") if rows else []
    scores = iter(score_answers(original, encoded))
    found: dict[str, dict[str, dict]] = {}
    for (model, name), pairs in said.items():
        values = {}
        for number, (_, text) in enumerate(pairs):
            score = next(scores) if text.strip() else None
            values[str(number)] = {"avg_logp": score and score.mean_logp, "repeats": repeats(text)}
        found.setdefault(model, {})[name] = {"value_by_index": values}
    return found


def well_formed(record: Mapping, threshold: float, refusals: Mapping | None = None) -> list[float]:
    """1.0 for each answer of a record that is well formed, 0.0 for the others.

    Args:
        refusals: which answers refuse (`refusals.refusal_records`): a refusal is an answer however unlikely it was.
    """
    refused = {} if refusals is None else {row: value["score"] for row, value in refusals["value_by_index"].items()}
    return [
        float(not row["repeats"] and (bool(refused.get(number)) or _is_likely(row["avg_logp"], threshold)))
        for number, row in record["value_by_index"].items()
    ]


def _is_likely(avg_logp: float | None, threshold: float) -> bool:
    return avg_logp is not None and avg_logp >= threshold


def fluency_threshold(references: Sequence[Mapping]) -> float | None:
    """The log-probability per token that an answer must have, from the records of oracles (or of made-up names)."""
    values = [row["avg_logp"] for one in references for row in one["value_by_index"].values() if not row["repeats"]]
    values = [value for value in values if value is not None]
    return float(np.percentile(values, PERCENTILE)) if values else None


def repeats(text: str) -> bool:
    """Whether the same words (one to eight of them) come more than three times in a row.

    In scripts that set no spaces between words, their characters.
    """
    words = characters_apart(text).split()
    for length in range(1, _LONGEST_REPEATED + 1):
        alike = 0
        for first, second in zip(words, words[length:], strict=False):
            alike = alike + 1 if first == second else 0
            if alike >= MOST_REPEATS * length:
                return True
    return False


def _renamed(prompts: Sequence[Prompt], forget: Dataset) -> list[Prompt]:
    """The questions with the name of a person who does not exist: the first name of one and the last of another."""
    named = people_of(forget)
    people = sorted({str(person) for person in named if person is not None})
    parts = [person.split() for person in people if len(person.split()) > 1]
    made_up = sorted({f"{a[0]} {b[-1]}" for a in parts for b in parts} - set(people))
    if not made_up:
        return []
    renamed = []
    for prompt, person in zip(prompts, named, strict=True):
        name = random.Random(str(person)).choice(made_up)
        if person is not None and prompt and any(str(person) in message["content"] for message in prompt):
            renamed.append([m | {"content": m["content"].replace(str(person), name)} for m in prompt])
    return renamed
