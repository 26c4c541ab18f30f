"""From rows to token ids: the prompt as generation will see it, then the answer with its end token.

The prompt's ids are always those of the prompt tokenized alone, so that training, scoring and generation condition on
exactly the same tokens; the answer's ids are those that follow them in the tokenized whole.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from datasets import Dataset

from llm_unlearn.data.chat_templates import AnswerFrame, answer_frame, context_of, encoding_key
from llm_unlearn.data.control_tokens import START, control_pattern, encode_marked, first_marked, marked
from llm_unlearn.data.formats import Prompt
from llm_unlearn.data.validation import Rows, row_errors, split_rows
from llm_unlearn.errors import InputError, excerpt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

IGNORED = -100  # label of a token that is not part of an answer (the value that torch's cross entropy skips)

_encoded: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple, list[dict[str, list[int]]]]] = WeakKeyDictionary()


def encode_row(
    processing_class: PreTrainedTokenizerBase, prompt: Prompt, answer: str, max_length: int | None = None
) -> dict[str, list[int]]:
    """Token ids of one row and its labels: -100 on the prompt, the ids themselves on the answer and its end token.

    Args:
        processing_class: a tokenizer; with a chat template the template is used, else "Question: ...\\nAnswer: ...".
        prompt: chat messages, or "" for plain text, of which every token after the first is an answer token. A last
            message by the assistant is the beginning of the answer (as in TRL's prompts): context, never a label.
        answer: stripped before use, except for plain text and what continues a beginning: that keeps the space between.
        max_length: longer rows are cut at the right; None: no limit.

    Returns:
        {"input_ids": ids, "labels": labels}, two lists of the same length.

    Raises:
        InputError: the tokenizer has no eos token, its template rejects the messages, or `max_length` leaves no answer
            token.
    """
    prompt_ids, answer_ids = _encode_pairs(processing_class, [(prompt, answer)])[0]
    return _join(prompt_ids, answer_ids, max_length)


def encode_prompt(processing_class: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """The ids that generation starts from: exactly the prompt part of `encode_row`.

    For plain text ("") this is the bos token, or [] where the tokenizer adds none.
    """
    return _encode_pairs(processing_class, [(prompt, "")])[0][0]


def encode_dataset(
    dataset: Rows, processing_class: PreTrainedTokenizerBase, max_length: int | None, name: str
) -> list[dict[str, list[int]]]:
    """`encode_row` over a whole dataset; rows that `max_length` cuts are counted and reported in one warning.

    What was encoded before, by this tokenizer with this template, is not tokenized again: the same rows are trained on,
    attacked and judged.

    Args:
        dataset: a datasets.Dataset or a list of rows, in any of the row formats.
        name: what errors and the warning call the dataset.

    Raises:
        InputError: as `encode_row` and `validation.split_rows`; the message names the dataset and the row (from 0).
    """
    if not isinstance(dataset, (Dataset, list)):
        return _encode_rows(dataset, processing_class, max_length, name)
    content = dataset._fingerprint if isinstance(dataset, Dataset) else hashlib.sha256(repr(dataset).encode()).digest()
    tokens = (processing_class.eos_token, *_bos_ids(processing_class))
    key = (content, max_length, encoding_key(processing_class), tokens)
    known = _encoded.setdefault(processing_class, {})
    if key not in known:
        known[key] = _encode_rows(dataset, processing_class, max_length, name)
    return [*known[key]]


def _encode_rows(
    dataset: Rows, processing_class: PreTrainedTokenizerBase, max_length: int | None, name: str
) -> list[dict[str, list[int]]]:
    parts = _encode_pairs(processing_class, split_rows(dataset, name), name)
    rows = []
    for number, (prompt_ids, answer_ids) in enumerate(parts):
        with row_errors(name, number):
            rows.append(_join(prompt_ids, answer_ids, max_length))
    lengths = [len(prompt_ids) + len(answer_ids) for prompt_ids, answer_ids in parts]
    if max_length is not None and max(lengths) > max_length:
        cut = sum(length > max_length for length in lengths)
        logger.warning(
            "%s: %d of %d rows were cut to max_length=%d and lost the end of their answer; the longest has %d tokens",
            name,
            cut,
            len(rows),
            max_length,
            max(lengths),
        )
    return rows


def end_token_ids(processing_class: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end an answer, for generation: the chat template's end of turn, where it has one, and eos.

    Raises:
        InputError: the tokenizer has no eos token, or its chat template cannot render an answer.
    """
    end_token = answer_frame(processing_class).end_token
    ids = [processing_class.convert_tokens_to_ids(end_token), processing_class.eos_token_id]
    return list(dict.fromkeys(ids))


def _join(prompt_ids: list[int], answer_ids: list[int], max_length: int | None) -> dict[str, list[int]]:
    if max_length is not None and max_length < 1:
        raise InputError(f"max_length={max_length} leaves no tokens; give a positive number, or None for no limit")
    total = len(prompt_ids) + len(answer_ids)
    context = max(len(prompt_ids), 1)  # nothing predicts the first token of a text, so it is never an answer token
    input_ids = (prompt_ids + answer_ids)[:max_length]
    if len(input_ids) <= context:
        raise InputError(
            f"max_length={max_length} cuts off the whole answer: the prompt alone has {context} tokens; shorten or "
            f"drop this row, or, if the model has so many positions, raise max_length to at least {context + 1} "
            f"({total} keeps the whole answer)"
        )
    return {"input_ids": input_ids, "labels": [IGNORED] * context + input_ids[context:]}


def _encode_pairs(
    processing_class: PreTrainedTokenizerBase, pairs: Sequence[tuple[Prompt, str]], name: str | None = None
) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids) of every (prompt, answer); in batches, which fast tokenizers spread over cores."""
    frame, control = answer_frame(processing_class), control_pattern(processing_class)
    prompt_texts, answer_texts = [], []
    for number, (prompt, answer) in enumerate(pairs):
        with row_errors(name, number):
            prompt_text, answer_text = _texts(processing_class, frame, *marked(control, prompt, answer))
        prompt_texts.append(prompt_text)
        answer_texts.append(answer_text)
    whole_texts = [p + a for p, a in zip(prompt_texts, answer_texts, strict=True)]
    if name is not None:
        _report_special_tokens(whole_texts, name)
    prompts_alone = _token_ids(processing_class, prompt_texts, name)
    wholes = _token_ids(processing_class, whole_texts, name)

    parts = []
    bos, eos = _bos_ids(processing_class), [processing_class.eos_token_id]
    for (prompt, _), prompt_ids, whole, answer_text in zip(pairs, prompts_alone, wholes, answer_texts, strict=True):
        # The answer is tokenized apart only where it would merge with the prompt's last token.
        fits = whole[: len(prompt_ids)] == prompt_ids
        answer_ids = whole[len(prompt_ids) :] if fits else _ids_within(processing_class, answer_text)
        if prompt and processing_class.chat_template:
            parts.append((prompt_ids, answer_ids))
        else:
            parts.append((bos + prompt_ids, answer_ids + eos))
    return parts


def _token_ids(processing_class: PreTrainedTokenizerBase, texts: list[str], name: str | None = None) -> list[list[int]]:
    ids = processing_class(texts, add_special_tokens=False, verbose=False)["input_ids"]
    for number, text in enumerate(texts):
        if START in text:
            with row_errors(name, number):
                ids[number] = encode_marked(processing_class, text)
    return ids


def _ids_within(processing_class: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text that others precede: SentencePiece tokenizers (Llama 2, Mistral) put a space at a beginning."""
    ids = _token_ids(processing_class, [processing_class.eos_token + text])[0]
    if ids[:1] == [processing_class.eos_token_id]:
        return ids[1:]
    return _token_ids(processing_class, [text])[0]


def _report_special_tokens(texts: list[str], name: str) -> None:
    found = [(number, first_marked(text)) for number, text in enumerate(texts) if START in text]
    if found:
        logger.warning(
            "%s: %d of %d rows hold special tokens of the tokenizer in their texts (first row %d, %r): they are "
            "encoded as ordinary text, not as control",
            name,
            len(found),
            len(texts),
            *found[0],
        )


def _bos_ids(processing_class: PreTrainedTokenizerBase) -> list[int]:
    """The bos token, where the tokenizer adds one by itself; some have one and never use it."""
    first = processing_class("a")["input_ids"][:1]
    return first if first == [processing_class.bos_token_id] else []


def _texts(
    processing_class: PreTrainedTokenizerBase, frame: AnswerFrame, prompt: Prompt, answer: str
) -> tuple[str, str]:
    """The text before the answer's tokens, and theirs."""
    if not prompt:
        return "", answer
    if isinstance(prompt, str):
        raise InputError(
            f"prompt {excerpt(prompt)} is a string; give chat messages [{{'role': 'user', 'content': ...}}]"
        )
    *question, last = prompt
    if last["role"] == "assistant":  # the answer has begun
        begun, answer = last["content"].lstrip(), answer.rstrip()
    else:
        question, begun, answer = prompt, "", answer.strip()
    if processing_class.chat_template:
        before = context_of(processing_class, frame, question, (begun + answer).strip())
    else:
        labels = {"user": "Question: ", "assistant": "Answer: "}
        turns = [f"{labels.get(message['role'], '')}{message['content'].strip()}\n" for message in question]
        before = "".join(turns) + "Answer:"
    if question is prompt:
        return before, frame.gap + answer + frame.end
    return before + frame.gap + begun, answer + frame.end
