"""How answers are generated where models are judged: greedily, by a configuration of our own.

A model's folder may hold a `generation_config.json` (repetition penalty, beams, suppressed tokens, ...) that changes
what "greedy" says, and with it who seems to have forgotten.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data.encoding import end_token_ids
from llm_unlearn.errors import InputError

CHOICES = ("own", "model")


def answer_configuration(
    model: PreTrainedModel | None, processing_class: PreTrainedTokenizerBase, max_new_tokens: int, choice: str = "own"
) -> GenerationConfig:
    """The whole configuration that answers are generated with.

    Args:
        model: asked only by the choice "model".
        choice: "own": the most probable token, one after the other, until an end token (`data.encoding.end_token_ids`);
            what the model brings along plays no part. "model": its own configuration, for judging the product as
            shipped, its end tokens included where it names any; never sampled, so that it can be judged again.

    Raises:
        InputError: an unknown choice.
    """
    ours = {
        "do_sample": False,
        "use_cache": True,
        "max_new_tokens": max_new_tokens,
        "pad_token_id": processing_class.pad_token_id,
    }
    if choice == "own":
        return GenerationConfig(**ours, num_beams=1, eos_token_id=end_token_ids(processing_class))
    if choice != "model":
        raise InputError(f"generation_config={choice!r} is unknown; choose from {', '.join(CHOICES)}")
    config = copy.deepcopy(model.generation_config)
    ours |= {"num_return_sequences": 1, "return_dict_in_generate": False}  # one text for each prompt
    ours |= dict.fromkeys(("temperature", "top_k", "top_p"))  # of sampling
    if config.eos_token_id is None:
        ours["eos_token_id"] = end_token_ids(processing_class)
    config.update(**ours)
    return config


def settings_of(config: GenerationConfig) -> dict[str, Any]:
    """What a configuration sets, as JSON values."""
    return {name: value for name, value in config.to_diff_dict().items() if name != "transformers_version"}


def generation_settings(
    model: PreTrainedModel | None, processing_class: PreTrainedTokenizerBase, max_new_tokens: int, choice: str = "own"
) -> dict[str, Any]:
    """As `answer_configuration`, for results: the choice, and what it sets."""
    config = answer_configuration(model, processing_class, max_new_tokens, choice)
    return {"generation_config": choice, **settings_of(config)}


@contextlib.contextmanager
def generating_by(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Within this scope the model has no other generation configuration.

    One that is only handed to `generate` does not suffice: what it leaves open is filled in from the model's. Every
    module that has one is given this one, for an adapter's model has it in several places.
    """
    holders = [module for module in model.modules() if "generation_config" in vars(module)]
    former = [module.generation_config for module in holders]
    try:
        for module in holders:
            module.generation_config = config
        yield
    finally:
        for module, own in zip(holders, former, strict=True):
            module.generation_config = own
