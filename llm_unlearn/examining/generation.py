"""How the answers of examined models are generated, and what results say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data import encode_dataset
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.examining.abilities import JudgedSets
from llm_unlearn.examining.refusals import refusal_shares
from llm_unlearn.models.generation import generation_settings

MOST_NEW_TOKENS = 200  # as TOFU has it
_ROUGE = "_Q_A_ROUGE"


def most_new_tokens(
    judged: JudgedSets, processing_class: PreTrainedTokenizerBase, max_length: int | None = None
) -> int:
    """Of generated answers: twice the longest true one, for a model that no longer stops, and never over 200."""
    longest = 0
    for name in judged.generated:
        rows = encode_dataset(judged.sets[name], processing_class, max_length, name)
        longest = max(longest, *(sum(label != IGNORED for label in row["labels"]) for row in rows))
    return min(MOST_NEW_TOKENS, 2 * longest + 16)


def generation_key(
    load: Callable[[], PreTrainedModel],
    processing_class: PreTrainedTokenizerBase,
    max_new_tokens: int,
    generation_config: str,
) -> dict[str, Any]:
    """What decides, beside its weights, what a model answers; it is loaded only if its own configuration counts."""
    model = load() if generation_config == "model" else None
    return generation_settings(model, processing_class, max_new_tokens, generation_config)


def how_answers_came(records: Mapping[str, Mapping]) -> dict[str, dict]:
    """The part of results about generated answers.

    Args:
        records: of every model.

    Returns:
        {"generation": {model: {"generation_config": "own" or "model", and all that the configuration set}},
        "rouge_tokenizers": {set: {tokenizer: number of answers}}, "refusals": {model: {set: share of refusals}}};
        nothing of a model that generated nothing.
    """
    generation, tokenizers = {}, {}
    for model, by_metric in records.items():
        for metric, record in by_metric.items():
            if metric.endswith(_ROUGE):
                generation[model] = record["generated_by"]
                tokenizers[metric.removesuffix(_ROUGE)] = record["tokenizers"]
    return {"generation": generation, "rouge_tokenizers": tokenizers, "refusals": refusal_shares(records)}
