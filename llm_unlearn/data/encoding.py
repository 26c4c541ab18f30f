"""From rows to token ids: the prompt as generation will see it, then the answer with its end token.

The prompt's ids are always those of the prompt tokenized alone, so that training, scoring and generation condition on
exactly the same tokens; the answer's ids are those that follow them in the tokenized whole.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import jinja2
from datasets import Dataset

from llm_unlearn.data.formats import Message, Prompt
from llm_unlearn.data.validation import Rows, row_errors, split_rows
from llm_unlearn.errors import InputError, excerpt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

IGNORED = -100  # label of a token that is not part of an answer (the value that torch's cross entropy skips)
PLACEHOLDER = "placeholderanswer"
NO_END_TOKEN = (  # in the library, `processing_class.eos_token` may be set as well
    'the tokenizer of {!r} has no end token: name one of its tokens in its tokenizer_config.json ("eos_token": "</s>")'
)

_encoded: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple, list[dict[str, list[int]]]]] = WeakKeyDictionary()

# Passed to every chat template; those that do not know a name ignore it. Without the first, Qwen3 and SmolLM3 would
# think before they answer, so that a direct answer would be scored in a place where they never give one. Without the
# second (the value is Meta's own default), Llama-3 prompts would hold today's date and differ from day to day.
TEMPLATE_ARGUMENTS = {"enable_thinking": False, "date_string": "26 Jul 2024"}


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

    A `Dataset` that was encoded before, by this tokenizer with this template, is not tokenized again: the same rows are
    trained on, attacked and judged.

    Args:
        dataset: a datasets.Dataset or a list of rows, in any of the row formats.
        name: what errors and the warning call the dataset.

    Raises:
        InputError: as `encode_row` and `validation.split_rows`; the message names the dataset and the row (from 0).
    """
    key = None
    if isinstance(dataset, Dataset):
        template = repr(processing_class.chat_template)  # a text, or texts by name
        tokens = (len(processing_class), processing_class.eos_token, *_bos_ids(processing_class))
        key = (dataset._fingerprint, max_length, template, tokens)
        if key in (known := _encoded.setdefault(processing_class, {})):
            return [*known[key]]
    rows = _encode_rows(dataset, processing_class, max_length, name)
    if key is not None:
        _encoded[processing_class][key] = [*rows]
    return rows


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
    end_token = _answer_frame(processing_class)[2]
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
    before, after, _ = _answer_frame(processing_class)
    prompt_texts, answer_texts = [], []
    for number, (prompt, answer) in enumerate(pairs):
        with row_errors(name, number):
            prompt_texts.append(_prompt_text(processing_class, prompt, before))
        if prompt and not _is_begun(prompt):
            answer = before + answer.strip()
        answer_texts.append(answer.rstrip() + after if prompt else answer)
    prompts_alone = _token_ids(processing_class, prompt_texts)
    wholes = _token_ids(processing_class, [p + a for p, a in zip(prompt_texts, answer_texts, strict=True)])

    parts = []
    bos, eos = _bos_ids(processing_class), [processing_class.eos_token_id]
    for (prompt, _), prompt_ids, whole, answer_text in zip(pairs, prompts_alone, wholes, answer_texts, strict=True):
        # Tokenized alone, the answer would get a second space from SentencePiece tokenizers (Llama 2, Mistral), which
        # the model never saw. It is tokenized alone only where it would merge with the prompt's last token.
        fits = whole[: len(prompt_ids)] == prompt_ids
        answer_ids = whole[len(prompt_ids) :] if fits else _token_ids(processing_class, [answer_text])[0]
        if prompt and processing_class.chat_template:
            parts.append((prompt_ids, answer_ids))
        else:
            parts.append((bos + prompt_ids, answer_ids + eos))
    return parts


def _token_ids(processing_class: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return processing_class(texts, add_special_tokens=False, verbose=False)["input_ids"]


def _bos_ids(processing_class: PreTrainedTokenizerBase) -> list[int]:
    """The bos token, where the tokenizer adds one by itself; some have one and never use it."""
    first = processing_class("a")["input_ids"][:1]
    return first if first == [processing_class.bos_token_id] else []


def _is_begun(prompt: Prompt) -> bool:
    return isinstance(prompt, list) and bool(prompt) and prompt[-1]["role"] == "assistant"


def _prompt_text(processing_class: PreTrainedTokenizerBase, prompt: Prompt, before: str) -> str:
    if not prompt:
        return ""
    if isinstance(prompt, str):
        raise InputError(
            f"prompt {excerpt(prompt)} is a string; give chat messages [{{'role': 'user', 'content': ...}}]"
        )
    if _is_begun(prompt):
        return _prompt_text(processing_class, prompt[:-1], before) + before + prompt[-1]["content"].lstrip()
    if processing_class.chat_template:
        return _render(processing_class, prompt, add_generation_prompt=True)
    labels = {"user": "Question: ", "assistant": "Answer: "}
    turns = [f"{labels.get(message['role'], '')}{message['content'].strip()}\n" for message in prompt]
    return "".join(turns) + "Answer:"


def _answer_frame(processing_class: PreTrainedTokenizerBase) -> tuple[str, str, str]:
    """The texts around an answer: whitespace before it, what ends it, and the last token of that.

    They are taken from a rendered placeholder and not from the row at hand: an answer such as "end" also occurs
    inside "<|im_end|>".
    """
    eos_token = processing_class.eos_token
    if eos_token is None:
        raise InputError(f"{NO_END_TOKEN.format(processing_class.name_or_path)}; without one no answer could end")
    if not processing_class.chat_template:
        return " ", "", eos_token  # eos is appended as an id
    question: list[Message] = [{"role": "user", "content": "question"}]
    answered = [*question, {"role": "assistant", "content": PLACEHOLDER}]
    before, found, after = _render(processing_class, answered, add_generation_prompt=False).rpartition(PLACEHOLDER)
    if not found:
        raise InputError("the chat template does not show the assistant's message; set one that does")
    # Some templates write a space or newline between the generation prompt and the answer, and the model expects it.
    # Anything else there (Qwen3's empty <think> block) is not part of an answer.
    gap = before.removeprefix(_render(processing_class, question, add_generation_prompt=True))
    gap = "" if gap.strip() else gap
    # The turn ends at its first special token. What follows is not trained: ChatML has a newline there, Phi-3 a newline
    # and the end of the whole text.
    special = {*processing_class.get_added_vocab(), *processing_class.all_special_tokens}
    ends = [(after.index(token) + len(token), token) for token in special if token.strip() and token in after]
    if ends:
        end, token = min(ends)
        return gap, after[:end], token
    return gap, after.rstrip() + eos_token, eos_token  # a turn that ends in plain words could not stop generation


def _render(processing_class: PreTrainedTokenizerBase, messages: list[Message], add_generation_prompt: bool) -> str:
    try:
        return processing_class.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, **TEMPLATE_ARGUMENTS
        )
    except (jinja2.TemplateError, ValueError) as error:  # ValueError: several templates and none called "default"
        reason = " ".join(str(error).split())[:80]  # it may quote a message
        raise InputError(f"the tokenizer's chat template rejects the messages: {reason}") from error
