"""Text that a model writes itself: given a user's turn that has just begun, it asks, and then it answers.

What comes out is a sample of what the model was tuned to talk about, without any data of its owner's: something to keep
it close to itself on while it forgets.

Source: Xu and others 2024, Magpie (arXiv 2406.08464), whose questions are sampled and whose answers are greedy, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data.encoding import encode_prompt, end_token_ids
from llm_unlearn.errors import InputError
from llm_unlearn.models.generation import answer_configuration, generating_by
from llm_unlearn.models.scoring import evaluation_mode

_CONTENTS = ("Where is it?", "7 of them", "apples, red")  # whatever users say: what comes before it is the same


def opened_turn(processing_class: PreTrainedTokenizerBase) -> list[int]:
    """The token ids with which every prompt begins: up to where the user's own words do.

    Raises:
        InputError: prompts begin with nothing of the kind.
    """
    prompts = [encode_prompt(processing_class, [{"role": "user", "content": text}]) for text in _CONTENTS]
    shared = [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False))]
    if not shared:
        raise InputError(
            "the model cannot be asked to ask: its prompts begin with the user's own words; give a tokenizer with a "
            "chat template"
        )
    return shared


def sampled_questions(
    model: PreTrainedModel, processing_class: PreTrainedTokenizerBase, count: int, max_new_tokens: int
) -> list[str]:
    """What the model says in a user's turn, sampled at temperature 1 by torch's random state; "" where it did not end.

    Without a chat template a question is one line.
    """
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=max_new_tokens,
        pad_token_id=processing_class.pad_token_id,
        eos_token_id=end_token_ids(processing_class),
    )
    found = _continued(model, processing_class, [opened_turn(processing_class)] * count, config)
    if processing_class.chat_template:
        return [text.strip() if ended else "" for text, ended in found]
    lines = [text.split("\n") for text, _ in found]
    return [first[0].strip() if len(first) > 1 or ended else "" for first, (_, ended) in zip(lines, found, strict=True)]


def greedy_answers(
    model: PreTrainedModel, processing_class: PreTrainedTokenizerBase, questions: Sequence[str], max_new_tokens: int
) -> list[str]:
    """The model's answer to each question; "" where it did not end."""
    config = answer_configuration(model, processing_class, max_new_tokens)
    prompts = [encode_prompt(processing_class, [{"role": "user", "content": question}]) for question in questions]
    found = _continued(model, processing_class, prompts, config)
    return [text.strip() if ended else "" for text, ended in found]


@torch.no_grad()
def _continued(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
) -> list[tuple[str, bool]]:
    """What follows each prompt, in one batch, and whether an end token ended it."""
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
