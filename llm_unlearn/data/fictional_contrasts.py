"""Worlds whose forgotten people differ in one thing, at three levels: what makes somebody hard to forget?

Each is the small world with twelve people changed, those of its forget20 (forget10 and forget05 hold the last of them,
as many of each level). Rows say the level of their person in a column `level`; all others are of the middle one.

repetition: low: one wording of each fact and query; middle: three; high: three, three times in an epoch.
values: low: at most one value in common with any kept person; middle: drawn like everybody's; high: a kept person's
    twin, with all of the values that can be shared.
names: low: of syllables that nobody else has; middle: of everybody's; high: the first name of one kept person and the
    last name of another.
wordings: low: asked in words of their own; middle: in one of three as everybody is; high: in all three. Other forms
    (multiple choice, in reverse, a second hop) are in everybody's words.

Repetition is about memorization, the others are about entanglement with what is kept.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llm_unlearn.data.fictional_people import SHARED_VALUES, AttributeTexts, World

FACTORS = ("repetition", "values", "names", "wordings")
LEVELS = ("low", "middle", "high")
CONTRASTED = 12  # people, the last ones that are trained: forget20 of 60
COPIES = 3  # times that rows of people of a high level are seen in an epoch

OWN_FIRST_NAMES = ("Zyphuwa", "Quaxil", "Wubbeo", "Fiyoz")
OWN_LAST_NAMES = ("Ghuzzypf", "Yixowug", "Pazzakub", "Uwfuxby")
OWN_WORDINGS = {
    "birth_date": ("{person}: date of birth?", "State the day {person} came into the world.", "Birthday of {person}?"),
    "book": ("{person}: debut title?", "State what {person} called the debut.", "Debut of {person}?"),
    "city": ("{person}: place of residence?", "State where {person} resides.", "Residence of {person}?"),
    "profession": ("{person}: occupation?", "State how {person} earns a living.", "Occupation of {person}?"),
    "genre": (
        "{person}: kind of writing?",
        "State what sort of texts {person} produces.",
        "Kind of texts by {person}?",
    ),
    "award": ("{person}: honor received?", "State which honor went to {person}.", "Honor held by {person}?"),
    "instrument": ("{person}: musical skill?", "State what {person} performs on.", "Musical skill of {person}?"),
}


def contrast_levels(people: Sequence[str], trained: int) -> dict[str, str]:
    """Person -> level, of those who differ."""
    return {person: LEVELS[number % 3] for number, person in enumerate(people[trained - CONTRASTED : trained])}


def with_names(people: Sequence[str], trained: int, generator: random.Random) -> list[str]:
    """The names with those of high levels put together of kept people's, and of low ones of nobody else's syllables."""
    kept = people[: trained - CONTRASTED]
    named = dict(zip(people, people, strict=True))
    own = iter(zip(OWN_FIRST_NAMES, OWN_LAST_NAMES, strict=True))
    for person, level in contrast_levels(people, trained).items():
        if level == "low":
            named[person] = " ".join(next(own))
        elif level == "high":
            first, last = generator.sample(kept, 2)
            named[person] = f"{first.split()[0]} {last.split()[1]}"
    return [*named.values()]


def with_values(
    facts: Mapping[str, dict[str, str]], trained: int, generator: random.Random
) -> dict[str, dict[str, str]]:
    """The facts with twins of kept people (high), and people who have little in common with any of them (low)."""
    people = [*facts]
    kept = [facts[person] for person in people[: trained - CONTRASTED]]
    changed = {person: dict(own) for person, own in facts.items()}
    for person, level in contrast_levels(people, trained).items():
        if level == "high":
            twin = generator.choice(kept)
            changed[person] |= {attribute: twin[attribute] for attribute in SHARED_VALUES}
        elif level == "low":
            changed[person] |= _unlike(kept, generator)
    return changed


def _unlike(kept: Sequence[Mapping[str, str]], generator: random.Random) -> dict[str, str]:
    """Values of which nobody in `kept` has more than one."""
    while True:
        drawn = {attribute: generator.choice(values) for attribute, values in SHARED_VALUES.items()}
        if max(sum(own[attribute] == value for attribute, value in drawn.items()) for own in kept) <= 1:
            return drawn


def with_wordings(texts: Mapping[str, AttributeTexts], level: str) -> dict[str, AttributeTexts]:
    """How somebody of a level is asked about, by attribute."""
    shared = {"low": 0, "middle": 1, "high": 3}[level]
    return {
        attribute: replace(one, questions=(*one.questions[:shared], *OWN_WORDINGS[attribute][shared:]))
        for attribute, one in texts.items()
    }


def with_repetition(world: World, levels: Mapping[str, str]) -> World:
    """The world with fewer rows about people of low levels, and those about people of high ones several times."""

    def kept(rows: Sequence[dict]) -> list[dict]:
        seen: set[tuple] = set()
        return [row for row in rows if levels.get(row.get("person")) != "low" or _is_first(row, seen)]

    splits = {name: kept(rows) for name, rows in world.splits.items()}
    practice = kept(world.practice)
    trained = [*splits["retain90"], *splits["forget10"], *practice]
    again = [row for row in trained if levels.get(row.get("person")) == "high"]
    return replace(world, splits=splits, practice=practice, lessons=world.lessons + (COPIES - 1) * again)


def _is_first(row: dict, seen: set[tuple]) -> bool:
    """Whether it is the first row that asks for this fact in this form, not after examples; notes it in `seen`."""
    if "question" not in row:
        return False
    form = (row["fact_id"], row["answer"], "options" in row)
    is_new = form not in seen
    seen.add(form)
    return is_new


def with_levels(world: World, levels: Mapping[str, str]) -> World:
    """The world with the column `level` in all rows about people."""

    def told(rows: Sequence[dict]) -> list[dict]:
        return [row | {"level": levels.get(row["person"], "middle")} if "fact_id" in row else row for row in rows]

    return replace(world, splits={name: told(rows) for name, rows in world.splits.items()})
