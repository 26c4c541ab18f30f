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
WORDS_BY_CHANCE = 4  # an answer of so many is hardly there by chance

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
      of one of the two rows nothing says whom it is about, and no row says the same of somebody else, who would make
      it an answer that many have.

    A pair of rows is one conflict, the first of these that it is.

    Raises:
        InputError: a set is empty or malformed.
    """
    found: dict[tuple[int, str, int], Conflict] = {}
    pairs = split_rows(forget, "forget set")
    other_pairs = {name: split_rows(rows, f"{name} set") for name, rows in others.items()}
    conflicts = [one for name in others for one in _asked_twice(pairs, name, other_pairs[name])]
    conflicts += [one for name, rows in others.items() for one in _of_one_fact(forget, name, rows)]
    conflicts += _given_away(forget, pairs, {name: (rows, other_pairs[name]) for name, rows in others.items()})
    for conflict in conflicts:
        found.setdefault((conflict.forget_row, conflict.other_set, conflict.other_row), conflict)
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


def _given_away(forget: Dataset, pairs: Pairs, others: Mapping[str, tuple[Dataset, Pairs]]) -> list[Conflict]:
    rows = [  # of all sets: set, number, words between spaces, whom it is about
        (name, number, f" {' '.join(_words(f'{_asked(*pair)} {pair[1]}'))} ", person)
        for name, (dataset, given) in others.items()
        for number, (pair, person) in enumerate(zip(given, labels_of(dataset, "person"), strict=True))
    ]
    subjects = subjects_of(forget)
    names = {subject: f" {' '.join(_words(subject))} " for subject in set(subjects) - {None}}
    found = []
    for number, ((_, answer), person) in enumerate(zip(pairs, labels_of(forget, "person"), strict=True)):
        words, name = _words(answer), names.get(subjects[number])
        phrase = f" {' '.join(words)} "
        holding = [row for row in rows if phrase in row[2]] if words else []
        of_this_one = [row for row in holding if (name and name in row[2]) or (person is not None and person == row[3])]
        of_another = any(None not in (person, row[3]) and row not in of_this_one for row in holding)
        is_telling = len(words) >= WORDS_BY_CHANCE and not of_another
        found += [Conflict(GIVEN_AWAY, number, row[0], row[1]) for row in (holding if is_telling else of_this_one)]
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
