"""Is the value that was asked for said, whatever else of the answer is not as it was?

In a sentence, exact match falls with any word: a model that misspells the name and says the fact has "forgotten" it by
exact match. So an answer is searched for the row's `value` (the part of the true answer that is asked for), by whole
words, whatever case, Unicode form and quotes. Substring match, as question answering knows it; read it beside an
oracle's, which hits some values by chance, and what guessing gives: how often a text holds the value of another
fact of the kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llm_unlearn.data.identity import normalized
from llm_unlearn.metrics.rouge import characters_apart

COLUMN = "value"


def value_said(text: str, value: str) -> bool:
    """Whether a text holds a value as whole words (in scripts without spaces, as characters in a row)."""
    text, value = (" ".join(characters_apart(normalized(one)).split()) for one in (text, value))
    return bool(value) and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None


def said_by_row(
    texts: Sequence[str],
    answers: Sequence[str],
    values: Sequence[object],
    made_up: Sequence[Sequence[str]] | None = None,
) -> dict[str, dict[str, float]]:
    """Row number -> {"score": 1.0 or 0.0}, of the rows whose true answer holds their value.

    Args:
        texts: what a model says; answers: what is true; values: what is asked for, None where a row has none.
        made_up: the values of other facts of a row's kind, equal ones too (then whoever always says one value says
            the true and the made-up ones equally often). Rows that have any get "made_up", the share of them that is
            said.
    """
    found = {}
    for number, (text, answer, value) in enumerate(zip(texts, answers, values, strict=True)):
        if isinstance(value, str) and value_said(answer, value):
            found[str(number)] = {"score": float(value_said(text, value))}
            if others := made_up[number] if made_up is not None else ():
                found[str(number)]["made_up"] = sum(value_said(text, other) for other in others) / len(others)
    return found
