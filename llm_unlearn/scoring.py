"""The one place that runs a model to judge it: examples in, one record per example out, batched."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data.collators import FORGET, EncodedRow, pad_rows
from llm_unlearn.data.encoding import end_token_ids
from llm_unlearn.modeling import forward_answers


@dataclass(frozen=True)
class AnswerScore:
    """How a model sees one given answer.

    nll: negative log-likelihood of the whole answer, in nats; length: answer tokens (end token included);
    exact_match: every answer token is the model's first choice, given the tokens before it. That is the same as:
    greedy generation gives exactly this answer.
    """

    nll: float
    length: int
    exact_match: bool

    @property
    def probability(self) -> float:
        """exp(-nll / length), the geometric mean of the token probabilities, in [0, 1]."""
        return math.exp(-self.nll / self.length)


@torch.no_grad()
def score_answers(model: PreTrainedModel, rows: Sequence[EncodedRow], batch_size: int = 64) -> list[AnswerScore]:
    """Score given answers; the records come back in the order of `rows` (`data.encode_dataset` makes rows)."""
    scores: list[AnswerScore | None] = [None] * len(rows)
    with evaluation_mode(model):
        for numbers in _batches_by_length([len(row["input_ids"]) for row in rows], batch_size):
            batch = pad_rows([rows[i] for i in numbers], pad_token_id=0)  # padding is masked: any id will do
            batch["roles"] = torch.full((len(numbers),), FORGET)
            answers = forward_answers(model, {name: value.to(model.device) for name, value in batch.items()})
            hits = (answers.logits.argmax(-1) == answers.labels).float()
            missed = torch.zeros_like(answers.logps).index_add(0, answers.token_rows, 1 - hits)
            for i, nll, length, wrong in zip(
                numbers, (-answers.logps).tolist(), answers.lengths.tolist(), missed.tolist(), strict=True
            ):
                scores[i] = AnswerScore(nll, length, wrong == 0)
    return scores


@torch.no_grad()
def generate_answers(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int = 200,
    batch_size: int = 64,
) -> list[str]:
    """Greedy answers to encoded prompts (`data.encode_prompt`), decoded without special tokens, in the order given.

    An empty prompt (plain text, and a tokenizer that adds no bos token) starts where another text has just ended.
    """
    texts: list[str] = [""] * len(prompts)
    pad = processing_class.pad_token_id
    prompts = [prompt or [processing_class.eos_token_id] for prompt in prompts]
    with evaluation_mode(model):
        for numbers in _batches_by_length([len(prompt) for prompt in prompts], batch_size):
            length = max(len(prompts[i]) for i in numbers)
            ids = torch.tensor([[pad] * (length - len(prompts[i])) + prompts[i] for i in numbers])
            mask = torch.tensor([[0] * (length - len(prompts[i])) + [1] * len(prompts[i]) for i in numbers])
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                eos_token_id=end_token_ids(processing_class),
                use_cache=True,
            )
            decoded = processing_class.batch_decode(output[:, length:], skip_special_tokens=True)
            for i, text in zip(numbers, decoded, strict=True):
                texts[i] = text.strip()
    return texts


def _batches_by_length(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of similar length: the less padding, the less is computed for nothing."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@contextlib.contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode within the scope, the former mode after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
