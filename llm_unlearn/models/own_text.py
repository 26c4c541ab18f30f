"""Text that a model writes itself: given a user's turn that has just begun, it asks, and then it answers.

What comes out is a sample of what the model was tuned to talk about, without any data of its owner's: something to keep
it close to itself on while it forgets.

Source: Xu and others 2024, Magpie (arXiv 2406.08464), whose questions are sampled and whose answers are greedy, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data.encoding import encode_prompt
from llm_unlearn.errors import InputError
from llm_unlearn.models.generation import answer_configuration
from llm_unlearn.models.sampling import continued, sampling_configuration

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
    config = sampling_configuration(processing_class, max_new_tokens)
    found = continued(model, processing_class, [opened_turn(processing_class)] * count, config)
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
    found = continued(model, processing_class, prompts, config)
    return [text.strip() if ended else "" for text, ended in found]
