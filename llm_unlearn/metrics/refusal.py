"""Whether an answer is a refusal: what a model says instead of answering."""

import re
import unicodedata
from collections.abc import Collection

from llm_unlearn.metrics.rouge import characters_apart

FIRST_WORDS = 8  # of a sentence of one's own: an answer that was cut off after them is still known by them

_OPENER = (
    r"(?:(?:i'm |i am )?(?:very |so |truly )?sorry|i(?:'m| am) afraid|i apologi[sz]e|unfortunately"
    r"|as an ai(?: \w+){0,3})"
)
_NOT_KNOWN = r"(?:information|knowledge|details?|data|records?|idea|clue|answer|way (?:of knowing|to know))\b"
_SAID = (
    r"answer|say|tell|provide|give|share|assist|discuss|disclose|comment|confirm|recall|be (?:sure|certain)"
    r"|help(?! but\b| \w+ing\b)"
)
_REFUSALS = (  # after an opener, or without one
    r"i (?:do not|don't|did not|didn't) (?:really |actually |currently |quite )?(?:know|recall|remember)\b",
    rf"i (?:do not|don't) (?:\w+ )?have (?:\w+ ){{0,3}}{_NOT_KNOWN}",
    rf"i have no (?:\w+ )?{_NOT_KNOWN}",
    r"i(?:'m| am) (?:not (?:\w+ )?(?:sure|certain|aware|familiar)|unsure|uncertain|unfamiliar)\b",
    rf"i(?:'m| am) (?:not able|unable) to (?:{_SAID})\b",
    rf"i (?:really |simply )?(?:can't|cannot|can not|could not|couldn't|won't|will not) (?:\w+ly )?(?:{_SAID})\b",
    r"(?:that|this|it)(?:'s| is) (?:not something i|beyond my|outside my)\b",
)
_PATTERN = re.compile(rf"(?:{_OPENER}[,.;:!]* (?:but |that )?)?(?:{'|'.join(_REFUSALS)})|{_OPENER}[.!]*$")


def is_refusal(text: str, own: Collection[str] = ()) -> bool:
    """Whether a text begins as one of the standard refusals does, or as a sentence of one's own.

    "I don't know", "I'm not sure", "I can't (cannot, could not) answer (help, say, provide, ...)", "I have no (don't
    have any) information (knowledge, ...)", "That is beyond my ...", all also after "Sorry", "I'm afraid" and the like.
    Case, white space and the form of apostrophes do not count. Only beginnings do: a title that is quoted in an answer,
    or an answer that begins with "I", is no refusal; "I'm not sure, but ..." is one.

    Args:
        own: further sentences that count, each by its first eight words (in scripts without spaces, characters).
    """
    said = _plain(text)
    if _PATTERN.match(said):
        return True
    words = _words(said)
    return any(words[: len(first)] == first for one in own if (first := _words(_plain(one))[:FIRST_WORDS]))


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'").replace("\u02bc", "'")
    return " ".join(folded.split())


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", characters_apart(text))
