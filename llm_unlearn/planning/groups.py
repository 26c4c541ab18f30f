"""Which rows are forgotten together: all of a person, or, where there are no two people, all of a fact."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from datasets import Dataset

from llm_unlearn.data.identity import facts_of, has_label, has_several, labels_of, people_of
from llm_unlearn.errors import InputError

LEVELS = ("low", "middle", "high")


def units_together(rows: Dataset) -> list[tuple[str, Any]]:
    """The unit of each row, ("person", name) or ("fact", name): rows of one stay together whatever is split.

    Rows that name nobody, and all rows where there are no two people, are units by their facts (`identity.facts_of`).
    """
    people, facts = people_of(rows), facts_of(rows)
    several = has_several(people)
    return [
        ("person", person) if several and person is not None else ("fact", fact)
        for person, fact in zip(people, facts, strict=True)
    ]


def mean_by_unit(values: Sequence[float | None], units: Sequence[Hashable]) -> dict[Hashable, float]:
    """Unit -> mean over its rows that have a value; units without one are missing."""
    of_unit: dict[Hashable, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        if value is not None:
            of_unit.setdefault(unit, []).append(value)
    return {unit: fmean(found) for unit, found in of_unit.items()}


def levels(scores: Mapping[Hashable, float]) -> dict[Hashable, str]:
    """Unit -> low, middle or high: thirds by rank, as equal as can be (the first ones larger); ties in given order.

    Raises:
        InputError: fewer than three units.
    """
    if len(scores) < len(LEVELS):
        raise InputError(
            f"{len(scores)} people (or, without two people, facts) to forget cannot be split into {len(LEVELS)} groups "
            f"({', '.join(LEVELS)}); name the groups in a column, or forget more at once"
        )
    parts = np.array_split(sorted(range(len(scores)), key=[*scores.values()].__getitem__), len(LEVELS))
    units = [*scores]
    return {units[number]: level for level, part in zip(LEVELS, parts, strict=True) for number in part}


def rows_by_group(units: Sequence[Hashable], level_of: Mapping[Hashable, str]) -> dict[str, list[int]]:
    """Group -> numbers of its rows, low first; rows of units without a group are in none."""
    return {
        level: [number for number, unit in enumerate(units) if level_of.get(unit) == level]
        for level in LEVELS
        if level in level_of.values()
    }


def rows_by_label(rows: Dataset, column: str, flag: str) -> dict[str, list[int]]:
    """Value of a column -> numbers of its rows, in the order of the rows.

    Args:
        flag: what the column was given as, for errors.

    Raises:
        InputError: there is no such column, or a row has no value there.
    """
    if column not in rows.column_names:
        raise InputError(
            f"{flag}={column!r} is no column of the forget rows; choose from {', '.join(rows.column_names)}"
        )
    if not has_label(rows, column):
        raise InputError(f"{flag}={column!r}: no forget row has a value in that column; choose another one")
    groups: dict[str, list[int]] = {}
    for number, value in enumerate(labels_of(rows, column)):
        if value is None:
            raise InputError(f"{flag}={column!r}: forget row {number} has no value there; fill it")
        groups.setdefault(str(value), []).append(number)
    return groups
