"""Rows to forget that contradict rows to keep: all of them, by number, instead of the first.

Loading refuses most of these (`data.validation`), one at a time; whoever has to clean two sets wants the list.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from llm_unlearn.data.formats import Prompt
from llm_unlearn.data.identity import labels_of, normalized, question_key
from llm_unlearn.data.made_up import subjects_of
from llm_unlearn.data.validation import split_rows
from llm_unlearn.metrics.rouge import UnicodeTokenizer

SAME_ROW, SAME_QUESTION, NEAR_QUESTION = "same row", "same question, other answer", "nearly the same question"
SAME_FACT, GIVEN_AWAY = "same fact_id", "answer given away"
WORDS_BY_CHANCE = 4  # so many words in a row are no chance where nobody knows whom a row is about

_words = UnicodeTokenizer().tokenize
# What two questions that ask the same may differ in, each with how it is taken away.
_FORMS: dict[str, Callable[[str], str]] = {
    "white space": lambda text: " ".join(text.split()),
    "Unicode form": lambda text: unicodedata.normalize("NFKC", text),
    "case": str.casefold,
    "punctuation": lambda text: "".join(c for c in text if unicodedata.category(c)[0] not in "PCS" or c.isspace()),
}


@dataclass(frozen=True)
class Conflict:
    """A row to forget and one of another set that cannot both be served.

    Attributes:
        kind: SAME_ROW, SAME_QUESTION, NEAR_QUESTION, SAME_FACT or GIVEN_AWAY.
        forget_row, other_row: numbers of the rows, from 0; other_set: the name of the other's set.
        differs: of NEAR_QUESTION, what the questions differ in: white space, Unicode form, case, punctuation.
        same_answer: whether both rows answer the same, but for that.
    """

    kind: str
    forget_row: int
    other_set: str
    other_row: int
    differs: tuple[str, ...] = field(default=())
    same_answer: bool = False


def find_conflicts(forget: Dataset, others: Mapping[str, Dataset]) -> list[Conflict]:
    """Every conflict of the forget rows with rows of other sets, in the order of the forget rows.

    - same row, same question, nearly the same question: whole prompts, outer white space aside, and then as
      `identity.question_key` compares them; of plain text, the text.
    - same fact_id: both rows have it, and do not ask the same.
    - answer given away: the words of the answer stand one after the other in a row that asks something else, and that
      row has the same `person`, or names the person whom the forget row asks about; or the answer has 4 words or more,
      and of one of the two rows nothing says whom it is about. Of somebody else, the same answer is another fact.

    A pair of rows is one conflict, the first of these that it is.

    Raises:
        InputError: a set is empty or malformed.
    """
    found: dict[tuple[int, str, int], Conflict] = {}
    pairs = split_rows(forget, "forget set")
    for name, rows in others.items():
        other_pairs = split_rows(rows, f"{name} set")
        for conflict in (
            *_asked_twice(pairs, name, other_pairs),
            *_of_one_fact(forget, name, rows),
            *_given_away(forget, pairs, name, rows, other_pairs),
        ):
            found.setdefault((conflict.forget_row, name, conflict.other_row), conflict)
    order = [*others]
    return sorted(found.values(), key=lambda one: (one.forget_row, order.index(one.other_set), one.other_row))


Pairs = Sequence[tuple[Prompt, str]]


def _asked_twice(pairs: Pairs, name: str, others: Pairs) -> list[Conflict]:
    places = _places([question_key(*pair) for pair in others])
    found = []
    for number, pair in enumerate(pairs):
        for other in places.get(question_key(*pair), ()):
            same_answer = normalized(pair[1]) == normalized(others[other][1])
            differs = _differences(_asked(*pair), _asked(*others[other]))
            if differs:
                found.append(Conflict(NEAR_QUESTION, number, name, other, differs, same_answer))
            elif pair[1].strip() == others[other][1].strip():
                found.append(Conflict(SAME_ROW, number, name, other, same_answer=True))
            else:
                found.append(Conflict(SAME_QUESTION, number, name, other, same_answer=same_answer))
    return found


def _of_one_fact(forget: Dataset, name: str, rows: Dataset) -> list[Conflict]:
    places = _places(labels_of(rows, "fact_id"))
    return [
        Conflict(SAME_FACT, number, name, other)
        for number, fact in enumerate(labels_of(forget, "fact_id"))
        for other in (places.get(fact, ()) if fact is not None else ())
    ]


def _given_away(forget: Dataset, pairs: Pairs, name: str, rows: Dataset, others: Pairs) -> list[Conflict]:
    texts = [f" {' '.join(_words(f'{_asked(*pair)} {pair[1]}'))} " for pair in others]
    about, own = labels_of(rows, "person"), labels_of(forget, "person")
    people, naming = _places(about), {}
    for subject in set(subjects_of(forget)) - {None}:
        phrase = f" {' '.join(_words(subject))} "
        naming[subject] = [number for number, text in enumerate(texts) if phrase in text]
    found = []
    for number, ((_, answer), person, subject) in enumerate(zip(pairs, own, subjects_of(forget), strict=True)):
        words = _words(answer)
        candidates = {*naming.get(subject, ())} | ({*people.get(person, ())} if person is not None else set())
        if len(words) >= WORDS_BY_CHANCE:
            candidates |= {i for i, other in enumerate(about) if person is None or other is None}
        phrase = f" {' '.join(words)} "
        found += [Conflict(GIVEN_AWAY, number, name, i) for i in sorted(candidates) if words and phrase in texts[i]]
    return found


def _asked(prompt: Prompt, answer: str) -> str:
    """The whole prompt as one text; plain text asks nothing and is known by what it says."""
    return "\n".join(message["content"].strip() for message in prompt or []) or answer.strip()


def _differences(one: str, other: str) -> tuple[str, ...]:
    """What two questions of one `question_key` differ in: each form without which the others do not make them one.

    Where two forms do the same (a no-break space), the first that is enough.
    """
    if one == other:
        return ()
    needed = []
    for what in _FORMS:
        texts = [one, other]
        for rest in (form for form in _FORMS if form != what):
            texts = [_FORMS[rest](text) for text in texts]
        if len(set(texts)) > 1:
            needed.append(what)
    enough = (what for what, without in _FORMS.items() if without(one) == without(other))
    return tuple(needed) or (next(enough, "several forms"),)


def _places(keys: Sequence[Any]) -> dict[Any, list[int]]:
    places: dict[Any, list[int]] = {}
    for number, key in enumerate(keys):
        places.setdefault(key, []).append(number)
    return places
