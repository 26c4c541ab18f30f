"""Which rows are the same: the question that a row asks, the fact that it states, the person it is about.

A label (`fact_id`, `person`) that is missing, which is None, NaN, empty or blank, is no value that rows could share:
such a row is a unit of its own. Rows that ask the same are one fact, whatever their labels and answers say: who is
taught the one has been asked the other.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from llm_unlearn.data.formats import Prompt, row_format, rows_at_once, split_row

# Unicode's Default_Ignorable_Code_Point, beside which format and control characters (Cf, Cc) are removed.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SINGLE, _DOUBLE = "\u2018\u2019\u201a\u201b", "\u201c\u201d\u201e\u201f\u00ab\u00bb"
_QUOTES = str.maketrans(dict.fromkeys(_SINGLE, "'") | dict.fromkeys(_DOUBLE, '"'))
# Not all punctuation: C# is not C. After the ASCII ones: interrobang; Chinese, Arabic, Urdu, Hindi and Armenian marks.
_FINAL = " .?!,;:'\"\u203d\u3001\u3002\u061b\u061f\u06d4\u0964\u0965\u055c\u055e\u0589"


@lru_cache(maxsize=2**16)
def normalized(text: str) -> str:
    """A text without case, Unicode form, invisible characters, typographic quotes, extra white space, final marks."""
    text = _INVISIBLE.sub("", text)
    text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cf", "Cc"))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = " ".join(text.translate(_QUOTES).split())
    return text.rstrip(_FINAL) or text


def question_key(prompt: Prompt, answer: str) -> tuple[tuple[str, str], ...]:
    """What a row asks: its whole prompt, normalized; plain text asks nothing and is known by what it says."""
    return tuple((message["role"], normalized(message["content"])) for message in prompt or []) or (
        ("text", normalized(answer)),
    )


def label(row: Mapping[str, Any], column: str) -> Any | None:
    """The value of a label, outer white space and Unicode's form aside; None where it is missing."""
    value = row.get(column)
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value).strip() if normalized(value) else None
    return None if value != value else value  # NaN is what differs from itself


def labels_of(rows: Dataset, column: str) -> list[Any | None]:
    """The label of each row; None where it is missing."""
    if column not in rows.column_names:
        return [None] * len(rows)
    return [label({column: value}, column) for value in rows[column][:]]


def facts_of(rows: Dataset) -> list[str | int]:
    """The fact of each row: rows are of one that share a `fact_id` or ask the same, also by way of further rows.

    Its name is the first `fact_id` among its rows, else "row N" (or what no `fact_id` is), with the number of its first
    row; where no row has a `fact_id`, that number.
    """
    labels = labels_of(rows, "fact_id")
    facts = _joined(first_rows(labels), first_rows(_questions(rows)))
    name_of = {fact: name for fact, name in reversed([*zip(facts, labels, strict=True)]) if name is not None}
    return named([name_of.get(fact) for fact in facts], facts)


def people_of(rows: Dataset) -> list[Any | None]:
    """The person that each row is about; None where it names nobody."""
    return labels_of(rows, "person")


def has_several(labels: Sequence[Any | None]) -> bool:
    """Whether there are two labels or more; missing ones are none."""
    return len(set(labels) - {None}) > 1


def has_label(rows: Dataset, column: str) -> bool:
    """Whether any row has one."""
    return any(name is not None for name in labels_of(rows, column))


def units_of(rows: Dataset) -> list[int]:
    """Number of the person that each row is about: what intervals draw as a whole.

    A row that names nobody is a unit with those of its kind that ask the same, and so is every row where there are no
    two people.
    """
    people, questions = people_of(rows), _questions(rows)
    several = has_several(people)
    keys = [
        ("question", question) if person is None or not several else ("person", person)
        for person, question in zip(people, questions, strict=True)
    ]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


def named(labels: Sequence[Any | None], units: Sequence[int]) -> list[Any]:
    """Each row's label; where it is missing, a name that no label has, of the row's unit.

    Args:
        units: number of the first row of what each row without a label is a part of; it is the name where there is no
            label at all.
    """
    taken = set(labels)
    if taken == {None}:
        return list(units)
    return [_free_name(unit, taken) if name is None else name for name, unit in zip(labels, units, strict=True)]


def first_rows(keys: Sequence[Hashable | None]) -> list[int]:
    """Of each row the number of the first one with its key; its own where it has none."""
    first: dict[Hashable, int] = {}
    return [number if key is None else first.setdefault(key, number) for number, key in enumerate(keys)]


def _free_name(number: int, taken: Container[Any]) -> str:
    name = f"row {number}"
    while name in taken:
        name = f"({name})"
    return name


def _questions(rows: Dataset) -> list[tuple[tuple[str, str], ...]]:
    form = row_format(rows.column_names)
    return [question_key(*split_row(row, form)) for row in rows_at_once(rows)]


def _joined(*partners: Sequence[int]) -> list[int]:
    """Of each row the number of the first one that it is joined with, by any of its partners and theirs."""
    count = len(partners[0])
    edges = (np.tile(np.arange(count), len(partners)), np.concatenate(partners))
    graph = coo_array((np.ones(len(edges[0])), edges), shape=(count, count))
    return first_rows(connected_components(graph, directed=False)[1].tolist())
