"""Whether a generation is the answer, to the letter."""

from unicodedata import normalize

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import checked_text


def exact_match(generation: str, answer: str) -> int:
    """1 if the two strings are equal after stripping surrounding whitespace, otherwise 0 (case and punctuation count).

    Two encodings of the same letters are equal: "é" as one character, or as an e with an accent (Unicode's NFC).
    Higher = the answer is better known. An empty generation scores 0.

    Raises InputError if either is not a string or the answer is blank.
    Source: the usual exact match of question answering, without SQuAD's normalization.
    """
    checked_text("generation", generation, "pass the decoded text")
    if not checked_text("answer", answer, "pass the answer text").strip():
        raise InputError(f"answer is blank ({answer!r}): drop rows without an answer")
    return int(normalize("NFC", generation.strip()) == normalize("NFC", answer.strip()))
