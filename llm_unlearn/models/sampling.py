"""What a model says when its next token is drawn, and not the most probable one; and what it says at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data.encoding import end_token_ids
from llm_unlearn.models.generation import generating_by
from llm_unlearn.models.scoring import evaluation_mode


def sampling_configuration(processing_class: PreTrainedTokenizerBase, max_new_tokens: int) -> GenerationConfig:
    """The model's own distribution (temperature 1, every token), drawn by torch's random state."""
    return GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=max_new_tokens,
        pad_token_id=processing_class.pad_token_id,
        eos_token_id=end_token_ids(processing_class),
    )


@torch.no_grad()
def continued(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
) -> list[tuple[str, bool]]:
    """What follows each encoded prompt, in one batch, and whether an end token ended it."""
    if not prompts:
        return []
    length, pad = max(map(len, prompts)), processing_class.pad_token_id
    padded = [[pad] * (length - len(ids)) + ids for ids in prompts]
    mask = [[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts]
    with evaluation_mode(model), generating_by(model, config):
        output = model.generate(
            input_ids=torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=config,
        )
    said, ends = output[:, length:].tolist(), set(config.eos_token_id)
    texts = processing_class.batch_decode(said, skip_special_tokens=True)
    return [(text, not ends.isdisjoint(ids)) for text, ids in zip(texts, said, strict=True)]
