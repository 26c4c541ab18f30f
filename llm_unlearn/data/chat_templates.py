"""Chat templates: how a conversation is rendered, and where in it an answer stands.

An answer stands where the *answered* conversation has it. The generation prompt may end elsewhere: inside a reasoning
block that an answered turn closes (DeepSeek-R1), or before the channel that an answer is written in (gpt-oss).
"""

from __future__ import annotations

import json
import logging
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import jinja2

from llm_unlearn.data.formats import Message
from llm_unlearn.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

NO_END_TOKEN = (  # in the library, `processing_class.eos_token` may be set as well
    'the tokenizer of {!r} has no end token: name one of its tokens in its tokenizer_config.json ("eos_token": "</s>")'
)
PLACEHOLDER = "placeholderanswer"
TEMPLATE_DATE = "2024-07-26"  # Meta's own default; with today's date a model would be asked another thing every day
DEFAULTS = {"enable_thinking": False, "template_date": TEMPLATE_DATE}
STORED = "chat_template_kwargs"  # entry of a tokenizer's `init_kwargs`, which are saved and loaded with it


class AnswerFrame(NamedTuple):
    """What a tokenizer puts around an answer.

    Attributes:
        gap: whitespace between prompt and answer, tokenized with the answer.
        end: what ends the answer in the text.
        end_token: the last token of that, or what is appended as an id.
        ordinary: the answer stands where the generation prompt ends.
    """

    gap: str
    end: str
    end_token: str
    ordinary: bool = True


_frames: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[tuple, AnswerFrame]] = WeakKeyDictionary()


def set_template_arguments(
    processing_class: PreTrainedTokenizerBase, enable_thinking: bool | None = None, template_date: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer itself, with what its chat template is told; a saved tokenizer keeps what differs from the default.

    Args:
        enable_thinking: what the template hears under this name (default: False); None: as it is.
        template_date: YYYY-MM-DD, today's date for the template (default: `TEMPLATE_DATE`); None: as it is.

    Raises:
        InputError: the template does not know `enable_thinking`, or the date is none.
    """
    stored = template_arguments(processing_class)
    if enable_thinking is not None:
        stored["enable_thinking"] = enable_thinking
    if enable_thinking and "enable_thinking" not in repr(processing_class.chat_template):
        raise InputError(
            f"enable_thinking=True: the chat template of {name_of(processing_class)} does not know enable_thinking; "
            "leave it out"
        )
    if template_date is not None:
        stored["template_date"] = f"{_parsed(template_date):%Y-%m-%d}"
    if changed := {name: value for name, value in stored.items() if value != DEFAULTS[name]}:
        processing_class.init_kwargs[STORED] = changed
    else:
        processing_class.init_kwargs.pop(STORED, None)
    return processing_class


def template_arguments(processing_class: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What `set_template_arguments` has set, or the defaults."""
    return DEFAULTS | (processing_class.init_kwargs.get(STORED) or {})


def template_key(processing_class: PreTrainedTokenizerBase) -> Any:
    """All of the template that decides how a row is encoded (JSON values), for keys of outcomes on disk."""
    unusual = unusual_template(processing_class)
    return [processing_class.chat_template, *unusual] if unusual else processing_class.chat_template


def unusual_template(processing_class: PreTrainedTokenizerBase) -> list:
    """What of the template decides how a row is encoded, besides its text (JSON values).

    Of an ordinary template nothing does: outcomes under it are still those of versions that knew only such.
    """
    if STORED in processing_class.init_kwargs or not answer_frame(processing_class).ordinary:
        return ["as answered", template_arguments(processing_class)]
    return []


def name_of(processing_class: PreTrainedTokenizerBase) -> str:
    """How errors call a tokenizer: the quoted folder or hub id that it came from, or its class."""
    return repr(processing_class.name_or_path or type(processing_class).__name__)


def answer_frame(processing_class: PreTrainedTokenizerBase) -> AnswerFrame:
    """The texts around an answer, from a rendered placeholder; found once for each tokenizer and template.

    They are not taken from the row at hand: an answer such as "end" also occurs inside "<|im_end|>".

    Raises:
        InputError: the tokenizer has no eos token, or its chat template cannot render an answer.
    """
    eos_token = processing_class.eos_token
    if eos_token is None:
        raise InputError(f"{NO_END_TOKEN.format(processing_class.name_or_path)}; without one no answer could end")
    if not processing_class.chat_template:
        return AnswerFrame(" ", "", eos_token)  # eos is appended as an id
    key = (encoding_key(processing_class), eos_token)
    if (known := _frames.get(processing_class)) is None or known[0] != key:
        known = _frames[processing_class] = (key, _template_frame(processing_class, eos_token))
    return known[1]


def encoding_key(processing_class: PreTrainedTokenizerBase) -> tuple:
    """What decides, with a row's texts, which ids it becomes; a tokenizer can be changed in place."""
    template = repr(processing_class.chat_template)  # a text, or texts by name
    stored = repr(processing_class.init_kwargs.get(STORED))
    return template, stored, len(processing_class), tuple(processing_class.all_special_tokens)


def _template_frame(processing_class: PreTrainedTokenizerBase, eos_token: str) -> AnswerFrame:
    question: list[Message] = [{"role": "user", "content": "question"}]
    before, after = _around_answer(processing_class, question)
    generation = render(processing_class, question, add_generation_prompt=True)
    ordinary = before.startswith(generation) and not before[len(generation) :].strip()
    if ordinary:  # some templates write a space or newline between the two, and the model expects it
        gap = before[len(generation) :]
    else:
        gap = before[len(before.rstrip(" ")) :]  # a space is part of the word after it
        logger.warning(
            "the chat template of %s has the generation prompt ...%r and an answer after ...%r: the latter is what "
            "training, scoring and generation start from",
            name_of(processing_class),
            generation[-60:],
            before[-60:],
        )
    # The turn ends at its first special token. What follows is not trained: ChatML has a newline there, Phi-3 a newline
    # and the end of the whole text.
    special = {*processing_class.get_added_vocab(), *processing_class.all_special_tokens}
    ends = [(after.index(token) + len(token), token) for token in special if token.strip() and token in after]
    if ends:
        end, token = min(ends)
        return AnswerFrame(gap, after[:end], token, ordinary)
    # a turn that ends in plain words could not stop generation
    return AnswerFrame(gap, after.rstrip() + eos_token, eos_token, ordinary)


def context_of(
    processing_class: PreTrainedTokenizerBase, frame: AnswerFrame, question: list[Message], answer: str
) -> str:
    """All that the answered conversation has before the answer, but the frame's gap.

    Args:
        frame: the tokenizer's `answer_frame`.
        question: the messages before the answer.
        answer: without outer whitespace; "" where there is none yet.

    Raises:
        InputError: the template rejects the messages, or does not show a question, a system message or the answer as
            they are.
    """
    before, after = _around_answer(processing_class, question)
    for message in question:
        if message["role"] in ("user", "system") and (content := message["content"].strip()) not in before:
            raise InputError(
                f"the chat template of {name_of(processing_class)} drops or changes the {message['role']} message "
                f"{content!r:.60} before an answer; write it in another way, or into the question"
            )
    if answer:
        answered = [*question, {"role": "assistant", "content": answer}]
        if render(processing_class, answered, add_generation_prompt=False) != before + answer + after:
            raise InputError(
                f"the chat template of {name_of(processing_class)} changes the answer {answer!r:.60}, or what stands "
                "around it; write it in another way (without reasoning blocks or escapes), or set another template"
            )
    return before.removesuffix(frame.gap)


def _around_answer(processing_class: PreTrainedTokenizerBase, question: list[Message]) -> tuple[str, str]:
    answered = [*question, {"role": "assistant", "content": PLACEHOLDER}]
    before, *after = render(processing_class, answered, add_generation_prompt=False).split(PLACEHOLDER)
    if len(after) != 1:
        raise InputError(
            f"the chat template of {name_of(processing_class)} does not show the assistant's message as it is, so that "
            "an answer has no place; set one that does"
        )
    return before, after[0]


def render(processing_class: PreTrainedTokenizerBase, messages: list[Message], add_generation_prompt: bool) -> str:
    """The messages as the chat template writes them, the same on every day.

    Raises:
        InputError: the template rejects them.
    """
    arguments = template_arguments(processing_class)
    date = _parsed(arguments["template_date"])
    try:
        template = processing_class.get_chat_template()
        if "strftime_now" in template:
            template = _pinned_clock(date) + template
        # Templates that do not know a name ignore it. Without the first, Qwen3 and SmolLM3 would think before they
        # answer; the second is how Llama 3 asks for the date.
        return processing_class.apply_chat_template(
            messages,
            tokenize=False,
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=arguments["enable_thinking"],
            date_string=date.strftime("%d %b %Y"),
        )
    except (jinja2.TemplateError, ValueError) as error:  # ValueError: several templates and none called "default"
        reason = " ".join(str(error).split())[:80]  # it may quote a message
        raise InputError(f"the tokenizer's chat template rejects the messages: {reason}") from error


def _parsed(template_date: str) -> datetime:
    try:
        return datetime.strptime(template_date, "%Y-%m-%d")
    except (TypeError, ValueError) as error:
        raise InputError(f"template_date={template_date!r} is no date; give it as YYYY-MM-DD") from error


@lru_cache
def _pinned_clock(date: datetime) -> str:
    """A macro that stands before the library's function `strftime_now`: a function given as an argument is dropped."""
    directives = [*"aAbBcdDeFfGHIjmMpSTuUVwWxXyYzZ", "-d", "-m", "-H", "-I", "-M", "-j"]
    replaced = "".join(f" | replace('%{one}', {json.dumps(date.strftime('%' + one))})" for one in directives)
    return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n"  # Jinja drops the newline
