"""Text is not control: a special token's name in a row's text is encoded as the characters that it is written with.

Occurrences are marked before a chat template is rendered, so that they can be told from the tokens that the template
writes. Texts without any are left to the tokenizer as they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from llm_unlearn.data.chat_templates import answer_frame, encoding_key, name_of
from llm_unlearn.data.formats import Prompt
from llm_unlearn.errors import InputError

if TYPE_CHECKING:
    from transformers import AddedToken, PreTrainedTokenizerBase

START, END = "\ufdd0", "\ufdd1"  # Unicode's noncharacters: for use inside a program, never in a text
NOTHING = re.compile("(?!)")

_patterns: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[tuple, re.Pattern]] = WeakKeyDictionary()


def control_pattern(processing_class: PreTrainedTokenizerBase) -> re.Pattern:
    """Matches what the tokenizer takes for a special token, and what ends an answer."""
    key = encoding_key(processing_class)
    if (known := _patterns.get(processing_class)) is None or known[0] != key:
        end_token = answer_frame(processing_class).end_token
        added = _added(processing_class).values()
        tokens = {token.content for token in added if token.special or token.content == end_token}
        longest_first = sorted((token for token in tokens if token.strip()), key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else NOTHING
        known = _patterns[processing_class] = (key, pattern)
    return known[1]


def marked(control: re.Pattern, prompt: Prompt, answer: str) -> tuple[Prompt, str]:
    """A row with marks around the special tokens (`control_pattern`) in its texts; itself where it has none."""

    def mark(text: str) -> str:
        return control.sub(rf"{START}\g<0>{END}", text)

    if isinstance(prompt, list):
        prompt = [{**message, "content": mark(message["content"])} for message in prompt]
    return prompt, mark(answer)


def first_marked(text: str) -> str | None:
    """The first special token that is marked in a text."""
    found = re.search(f"{START}(.*?){END}", text, re.DOTALL)
    return found and found[1]


def encode_marked(processing_class: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text with marks: those of the tokenizer, but for what is marked, which is ordinary text in its place.

    A tokenizer cuts a text at special tokens and encodes what lies between each on its own; so does this, at those
    that are not marked. That it is the same is checked on the same text with a word in the place of what is marked.

    Raises:
        InputError: the tokenizer encodes otherwise, or makes the special token from ordinary text.
    """
    literal = re.compile(f"{START}({control_pattern(processing_class).pattern}){END}")
    if re.search(f"[{START}{END}]", literal.sub("", text)):
        raise InputError(f"the chat template of {name_of(processing_class)} cuts a special token in the text in two")
    stand_in = literal.sub("x", text)
    try:
        expected = processing_class(stand_in, add_special_tokens=False, verbose=False)["input_ids"]
        for anchor in ("", "\n"):  # after an anchor SentencePiece adds no space, as it adds none in mid-text
            if _encode_between(processing_class, stand_in, literal, anchor) == expected:
                return _encode_between(processing_class, text, literal, anchor)
    except (ValueError, NotImplementedError):  # tokenizers that know no `split_special_tokens`, or as below
        pass
    raise InputError(
        f"the text holds {first_marked(text)!r}, a special token of {name_of(processing_class)}, which cannot encode "
        "it as ordinary text; write it in another way, such as with a space in it"
    )


def _encode_between(
    processing_class: PreTrainedTokenizerBase, text: str, literal: re.Pattern, anchor: str
) -> list[int]:
    """Ids of what lies between the special tokens that are not marked, and theirs.

    Raises:
        ValueError: what lies between has a special token's id.
    """
    control = control_pattern(processing_class)
    strips = {token.content: token for token in _added(processing_class).values()}
    # What is marked is put back only after the cut: else it would be cut there, too.
    kept = iter([match[1] for match in literal.finditer(text)])
    runs = re.split(f"({control.pattern})", literal.sub(START, text))
    for i in range(1, len(runs), 2):  # special tokens; some swallow the whitespace beside them
        if (token := strips.get(runs[i])) is not None:
            runs[i - 1] = runs[i - 1].rstrip() if token.lstrip else runs[i - 1]
            runs[i + 1] = runs[i + 1].lstrip() if token.rstrip else runs[i + 1]

    def as_text(run: str) -> list[int]:
        return processing_class(run, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]

    forbidden, ids = _forbidden(processing_class), []
    for i, run in enumerate(runs):
        if i % 2:
            ids.append(processing_class.convert_tokens_to_ids(run))
        elif run := re.sub(START, lambda _: next(kept), run):
            skipped = as_text(anchor) if anchor and i else []
            found = as_text(anchor + run if skipped else run)[len(skipped) :]
            if forbidden & set(found):
                raise ValueError("a special token was made from text")
            ids += found
    return ids


def _added(processing_class: PreTrainedTokenizerBase) -> dict[int, AddedToken]:
    """The tokens that the tokenizer looks for in a text before all else, by id."""
    try:
        return processing_class.added_tokens_decoder
    except NotImplementedError:  # mistral-common, which takes no text for control
        return {}


def _forbidden(processing_class: PreTrainedTokenizerBase) -> set[int]:
    """Ids that no text may have; unknown words and, where an ordinary word pads, padding are no control."""
    ends = {
        processing_class.eos_token_id,
        processing_class.convert_tokens_to_ids(answer_frame(processing_class).end_token),
    }
    special = {number for number, token in _added(processing_class).items() if token.special}
    return special - {processing_class.unk_token_id, processing_class.pad_token_id} | ends
