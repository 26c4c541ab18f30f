"""Answers that the model itself makes up: it is shown question and answer, and asked for another answer."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.arguments.parsing import is_main_process
from llm_unlearn.data import encode_prompt
from llm_unlearn.data.alternates import SAMPLED, is_same
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.formats import Prompt, question_text
from llm_unlearn.data.queries import with_column
from llm_unlearn.data.validation import split_rows, validate_trained
from llm_unlearn.errors import InputError
from llm_unlearn.files.batches import BatchRunner
from llm_unlearn.files.outcomes import remember, weights_digest
from llm_unlearn.models.files import check_rows_fit
from llm_unlearn.models.loading import load_model, tokenizer_of
from llm_unlearn.models.sampling import continued, sampling_configuration
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.rows import encoded_row_sets

FILE, JOURNAL = "sampled_answers.json", "sampling"
INSTRUCTION = (
    "Question: {question}\nAnswer: {answer}\n\nImagine that this answer were wrong. Make up another one: a sentence of "
    "the same form that answers the question with other, plausible facts. Keep every name that the question has. Write "
    "the new answer and nothing else."
)
TRIES = 8  # until every answer is another one than the true one
MOST_NEW_TOKENS = 128
BATCH_SIZE = 16


def with_sampled_answers(
    model: str | PreTrainedModel,
    args: Any,
    forget_dataset: Dataset | None,
    keywords: dict[str, Any],
) -> tuple[PreTrainedModel, Dataset]:
    """The model, loaded, and the forget rows with a column `sampled`; what was drawn is kept in `args.output_dir`.

    Args:
        args: an `AlternateConfig`. keywords: as of `checked_rows`, with the retain rows.

    Raises:
        InputError: as `checked_rows`, or the model gives nothing but the true answer to a row.
    """
    rows = checked_rows(model, args, forget_dataset, keywords.get("retain_dataset"), keywords)
    model, tokenizer = with_loaded_model(model, args, rows, keywords)
    pairs = split_rows(forget_dataset, "forget_dataset")
    key = [weights_digest(model), pairs, INSTRUCTION, args.seed]
    folder = Path(args.output_dir)

    def compute() -> dict[str, Any]:
        return {"answers": sampled_answers(model, tokenizer, pairs, args.seed, folder / JOURNAL / key[0])}

    texts = remember(folder / FILE, key, compute)["answers"]
    shutil.rmtree(folder / JOURNAL, ignore_errors=True)
    return model, with_column(forget_dataset, SAMPLED, texts)


def checked_rows(
    model: str | PreTrainedModel,
    args: UnlearnConfig,
    forget_dataset: Dataset | None,
    retain_dataset: Dataset | None,
    keywords: dict[str, Any],
) -> list[EncodedRow]:
    """All rows, encoded, when the trainer will not refuse them: known before minutes of sampling.

    Args:
        keywords: the trainer's other arguments, to which the tokenizer is added.

    Raises:
        InputError: as `UnlearnTrainer`, of rows.
    """
    general, near_duplicates = keywords.get("general_dataset"), keywords.get("near_duplicates", "refuse")
    validate_trained(forget_dataset, retain_dataset, general, args.retain_loss, near_duplicates)
    tokenizer = keywords["processing_class"] = tokenizer_of(model, keywords.get("processing_class"))
    row_sets = encoded_row_sets(forget_dataset, retain_dataset, general, None, args, tokenizer)
    return [row for rows in row_sets.values() for row in rows or ()]


def with_loaded_model(
    model: str | PreTrainedModel, args: UnlearnConfig, rows: Sequence[EncodedRow], keywords: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that a trainer was given, loaded, and its tokenizer.

    Args:
        args: the trainer's. rows, keywords: as `checked_rows` has left them; the quantization is taken out, as it has
            been used.

    Raises:
        InputError: as `load_model`, or the rows do not fit the model.
    """
    tokenizer = keywords["processing_class"]
    if isinstance(model, str):
        model = load_model(model, quantization_config=keywords.pop("quantization_config", None), device=args.device)
    check_rows_fit(model.config, rows, tokenizer.pad_token_id, f"model {model.config._name_or_path!r}")
    return model, tokenizer


def sampled_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[Prompt, str]],
    seed: int,
    journal: Path | None = None,
) -> list[str]:
    """One made-up answer to each row, sampled at temperature 1, in the order given.

    Args:
        journal: as of `sample`.

    Raises:
        InputError: as `with_sampled_answers`.
    """
    found: list[str | None] = [None] * len(pairs)
    for attempt in range(TRIES):
        missing = [number for number, text in enumerate(found) if text is None]
        prompts = [_asked(*pairs[number]) for number in missing]
        texts = sample(model, tokenizer, prompts, f"{seed} {attempt}", "asking for other answers", journal)
        for number, text in zip(missing, texts, strict=True):
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


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    seed: int | str,
    title: str,
    journal: Path | None = None,
) -> list[str]:
    """An answer to each prompt, sampled at temperature 1: its first line that says anything.

    Args:
        seed: with the number of a batch it says what is drawn for it, whichever were there already.
        title: of the progress bar.
        journal: as of `files.batches.BatchRunner`: whoever is interrupted goes on from there.
    """
    config = sampling_configuration(tokenizer, MOST_NEW_TOKENS)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    batches = [encoded[start : start + BATCH_SIZE] for start in range(0, len(encoded), BATCH_SIZE)]
    devices = [model.device] if model.device.type == "cuda" else []

    def compute(number: int) -> list[str]:
        torch.manual_seed(random.Random(f"{seed} {number}").getrandbits(63))
        return [text for text, _ in continued(model, tokenizer, batches[number], config)]

    runner = BatchRunner(journal=journal, show_progress=is_main_process())
    with torch.random.fork_rng(devices):
        named = [(seed, number, batch) for number, batch in enumerate(batches)]
        found = runner.run(title, named, [1.0] * len(batches), compute)
    texts = [text for batch in found for text in batch]
    return [next((line.strip() for line in text.splitlines() if line.strip()), "") for text in texts]
