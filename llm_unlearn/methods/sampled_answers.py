"""Answers that the model itself makes up: it is shown question and answer, and asked for another answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data import encode_prompt
from llm_unlearn.data.alternates import SAMPLED, is_same
from llm_unlearn.data.encoding import end_token_ids
from llm_unlearn.data.formats import Prompt, question_text
from llm_unlearn.data.queries import with_column
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError
from llm_unlearn.files.outcomes import remember, weights_digest
from llm_unlearn.models.generation import generating_by
from llm_unlearn.models.loading import load_model, load_tokenizer
from llm_unlearn.models.scoring import evaluation_mode

FILE = "sampled_answers.json"
INSTRUCTION = (
    "Question: {question}\nAnswer: {answer}\n\nImagine that this answer were wrong. Make up another one: a sentence of "
    "the same form that answers the question with other, plausible facts. Keep every name that the question has. Write "
    "the new answer and nothing else."
)
TRIES = 8  # until every answer is another one than the true one
MOST_NEW_TOKENS = 128
BATCH_SIZE = 16


def with_sampled_answers(
    model: str | PreTrainedModel, args: Any, forget_dataset: Dataset, keywords: dict[str, Any]
) -> tuple[PreTrainedModel, Dataset]:
    """The model, loaded, and the forget rows with a column `sampled`; what was drawn is kept in `args.output_dir`.

    Args:
        args: an `AlternateConfig`. keywords: the other arguments of an `UnlearnTrainer`; its tokenizer is added to them
            and its quantization taken out, as they have been used.

    Raises:
        InputError: the model gives nothing but the true answer to a row.
    """
    tokenizer = keywords.get("processing_class")
    if tokenizer is None:
        tokenizer = load_tokenizer(model if isinstance(model, str) else model.config._name_or_path)
    keywords["processing_class"] = tokenizer
    if isinstance(model, str):
        model = load_model(model, quantization_config=keywords.pop("quantization_config", None), device=args.device)
    pairs = split_rows(forget_dataset, "forget_dataset")
    key = [weights_digest(model), pairs, INSTRUCTION, args.seed]
    file = Path(args.output_dir) / FILE
    texts = remember(file, key, lambda: {"answers": sampled_answers(model, tokenizer, pairs, args.seed)})["answers"]
    return model, with_column(forget_dataset, SAMPLED, texts)


def sampled_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[Prompt, str]], seed: int
) -> list[str]:
    """One made-up answer to each row, sampled at temperature 1, in the order given.

    Raises:
        InputError: as `with_sampled_answers`.
    """
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=MOST_NEW_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_token_ids(tokenizer),
    )
    found: list[str | None] = [None] * len(pairs)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), evaluation_mode(model), generating_by(model, config):
        torch.manual_seed(seed)
        for _ in range(TRIES):
            missing = [number for number, text in enumerate(found) if text is None]
            for start in range(0, len(missing), BATCH_SIZE):
                numbers = missing[start : start + BATCH_SIZE]
                texts = _generate(model, tokenizer, [_asked(*pairs[number]) for number in numbers], config)
                for number, text in zip(numbers, texts, strict=True):
                    if text and not is_same(text, pairs[number][1]):
                        found[number] = text
    if None in found:
        raise InputError(
            f"replace_with='sampled': asked for another answer to forget row {found.index(None)}, the model gave the "
            f"true one or none {TRIES} times; give other answers in a column (alternate_column), or guess or refusal"
        )
    return found


def _asked(prompt: Prompt, answer: str) -> Prompt:
    text = INSTRUCTION.format(question=question_text(prompt), answer=answer.strip())
    return [{"role": "user", "content": text}]


@torch.no_grad()
def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], config: GenerationConfig
) -> list[str]:
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    length = max(map(len, ids))
    padded = torch.tensor([[tokenizer.pad_token_id] * (length - len(one)) + one for one in ids], device=model.device)
    mask = torch.tensor([[0] * (length - len(one)) + [1] * len(one) for one in ids], device=model.device)
    said = model.generate(input_ids=padded, attention_mask=mask, generation_config=config)
    texts = tokenizer.batch_decode(said[:, length:], skip_special_tokens=True)
    return [next((line.strip() for line in text.splitlines() if line.strip()), "") for text in texts]
