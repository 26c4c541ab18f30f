"""Word overlap of a generation with the answer."""

from __future__ import annotations

from string import ascii_lowercase, digits
from unicodedata import normalize

import regex
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import checked_text

TOKENIZERS = ("english", "unicode")

# Letters of scripts that set no spaces between words, each with its marks; SA is Unicode's class of the South East
# Asian scripts (Thai, Lao, Khmer, Myanmar, ...), whose words only a dictionary could tell apart.
_CHARACTER = regex.compile(
    r"(?V1)[[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}ー\p{Line_Break=SA}]&&[\p{L}\p{Nl}]]\p{M}*"
)
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_ENGLISH = frozenset(ascii_lowercase + digits)  # all that the published tokenizer sees


def characters_apart(text: str) -> str:
    """The text with spaces around each letter of a script that sets none between words (Chinese, Japanese, Thai)."""
    return _CHARACTER.sub(r" \g<0> ", text)


class UnicodeTokenizer(Tokenizer):
    """Words of any script, and single characters where a script sets no spaces between words; nothing is stemmed.

    Case, width and the way accents are encoded do not count (NFKC and case folding).
    """

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(characters_apart(_folded(text)))


# The stemmer is part of the definition: without it the published values are not reproduced.
_TOKENIZERS = dict(zip(TOKENIZERS, (DefaultTokenizer(use_stemmer=True), UnicodeTokenizer()), strict=True))
_SCORERS = {name: RougeScorer(["rouge1", "rougeL"], tokenizer=one) for name, one in _TOKENIZERS.items()}


def rouge_tokenizer(answer: str) -> str:
    """Which of `TOKENIZERS` an answer is scored with: "unicode" where half or more of its letters lie outside a-z.

    The published tokenizer, "english", sees a-z and 0-9 only: to it, two Chinese answers that share a year are equal. A
    few letters more do not make an answer less English: 315 of TOFU's 4,000 rows have some ("García"), at most a
    quarter of their letters, and their published scores hold. Each answer is decided on alone, so that its score does
    not depend on the rows beside it. An answer in which "english" sees no word at all is "unicode", too.
    """
    letters = [letter for letter in _folded(answer) if letter.isalpha()]
    others = sum(letter not in ascii_lowercase for letter in letters)
    mostly_others = others > 0 and 2 * others >= len(letters)
    return "unicode" if mostly_others or _ENGLISH.isdisjoint(answer.lower()) else "english"


def rouge_scores(generation: str, answer: str, tokenizer: str | None = None) -> dict[str, float]:
    """ROUGE of one generation against one answer: {"rouge1_recall", "rougeL_f1", "rougeL_recall"}.

    Each in the range 0 to 1, higher = closer to the answer; TOFU reports "rougeL_recall". A generation that is empty or
    shares no word scores 0 in all three. `tokenizer` is "english" (a-z and 0-9, stemmed: the published definition) or
    "unicode" (words of any script; characters of scripts without spaces); by default `rouge_tokenizer` decides by the
    answer. German, French and the like are mostly a-z and so "english", which cuts words at other letters: to it,
    "Müller" and "Möller" are the same; give "unicode" to tell them apart.

    Raises InputError if either is not a string, the tokenizer is unknown, or it finds no word in the answer: then any
    generation would score 0, and a model that knows the answer would pass for one that forgot it.
    Source: TOFU, arXiv 2401.06121; rouge_score with its Porter stemmer, as in open-unlearning.
    """
    checked_text("generation", generation, "pass the decoded text")
    checked_text("answer", answer, "pass the answer text")
    chosen = rouge_tokenizer(answer) if tokenizer is None else tokenizer
    if chosen not in TOKENIZERS:
        raise InputError(f"tokenizer {tokenizer!r} is unknown: choose from {', '.join(TOKENIZERS)}, or leave it out")
    if not _TOKENIZERS[chosen].tokenize(answer):
        seen = " of a-z or 0-9, all that tokenizer='english' sees" if chosen == "english" else ""
        raise InputError(f"answer {answer!r:.80} has no word{seen}: use exact_match or probability for this row")
    scores = _SCORERS[chosen].score(target=answer, prediction=generation)
    return {
        "rouge1_recall": float(scores["rouge1"].recall),
        "rougeL_f1": float(scores["rougeL"].fmeasure),
        "rougeL_recall": float(scores["rougeL"].recall),
    }


def _folded(text: str) -> str:
    """As it is compared: NFKC, without case; folding can take a text out of NFKC again."""
    return normalize("NFKC", normalize("NFKC", text).casefold())
