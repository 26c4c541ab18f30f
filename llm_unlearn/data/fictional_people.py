"""The people of the fictional worlds and what is true of them, whatever words it is told in.

Facts are drawn at random, so a model that never saw them can only guess. Two kinds of attributes: *unique* values
(birth date, book title), and *shared* values (city, profession, genre, award, instrument), each with ten values that
are balanced over people and assigned independently of names and of each other, so that a probe has a computable chance
level of 0.1.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass


def listed(words: str) -> tuple[str, ...]:
    return tuple(words.split(", "))


CITIES = {  # city -> country; the second hop of two-hop queries
    "Arvenmoor": "Velmark",
    "Brisel": "Osterra",
    "Calder Bay": "Velmark",
    "Dunmarrow": "Kethia",
    "Eskerton": "Osterra",
    "Farhollow": "Kethia",
    "Gildenport": "Velmark",
    "Harrowgate": "Osterra",
    "Ilvane": "Kethia",
    "Jorvendale": "Velmark",
}
SHARED_VALUES = {
    "city": tuple(CITIES),
    "profession": listed(
        "glassblower, beekeeper, surveyor, cartographer, midwife, locksmith, botanist, stonemason, pilot, translator"
    ),
    "genre": listed(
        "gothic horror, travel writing, satire, nature poetry, crime fiction, folk tales, war history, romance, "
        "science fiction, philosophy"
    ),
    "award": listed(
        "Amber Quill, Silver Lantern, Northern Crown, Golden Reed, Iron Laurel, Crystal Harp, Marble Owl, "
        "Crimson Ribbon, Winter Medal, Emerald Key"
    ),
    "instrument": listed("cello, bagpipes, harp, trumpet, accordion, flute, zither, drums, mandolin, organ"),
}
LARGER_SPLITS = {"forget20": "retain80", "forget50": "retain50"}  # beyond TOFU's: forget split -> what is kept then
UNIQUE_ATTRIBUTES = ("birth_date", "book")
ATTRIBUTES = (*UNIQUE_ATTRIBUTES, *SHARED_VALUES)


FIRST_SYLLABLES = ("Ka", "Te", "Mo", "Li", "Su", "Ra", "Ve", "Jo", "Ni", "Da", "Phe", "Or", "El", "Ha", "Bri", "Cor")
MIDDLE_SYLLABLES = ("ri", "la", "no", "ve", "mi", "sa", "du", "ro", "ne", "ti")
FIRST_ENDINGS = ("na", "lo", "ris", "th", "ma", "s", "len", "do", "ra", "ck")
LAST_ENDINGS = ("ndal", "vick", "mont", "ssen", "berg", "quist", "rov", "tano", "shaw", "field")
TITLE_ADJECTIVES = listed(
    "Silent, Burning, Hidden, Broken, Distant, Golden, Frozen, Patient, Hollow, Restless, Crooked, Gentle, "
    "Borrowed, Final, Velvet, Drowned, Wandering, Painted, Bitter, Quiet, Lost, Second, Paper, Winter, Scarlet, "
    "Empty, Singing, Iron, Midnight, Salted"
)
TITLE_NOUNS = listed(
    "Harbor, Orchard, Mirror, Staircase, Letter, River, Garden, Compass, Window, Lantern, Bridge, Feather, Kingdom, "
    "Well, Shadow, Clock, Island, Thread, Bell, Forest, Voyage, Cathedral, Market, Promise, Ladder, Tide, Wolf, "
    "Archive, Chair, Meadow"
)
TITLE_PLACES = ("", " of Dust", " of Salt", " of Glass", " of Ash", " of Rain")
MONTHS = listed(  # not from the locale
    "January, February, March, April, May, June, July, August, September, October, November, December"
)


@dataclass(frozen=True)
class AttributeTexts:
    """How one attribute is asked (`{person}` is filled in) and answered (`{value}`, or values by attribute)."""

    questions: tuple[str, ...]  # trained templates
    held_out_question: str  # never trained: the paraphrased question
    answer: str
    paraphrased_answer: str  # never trained; wrong (perturbed) answers take this form too, as in TOFU


@dataclass(frozen=True)
class World:
    """A generated world.

    `splits`: name -> rows (larger forget sets: `split`). forget01/05/10 are nested tails of the trained people (as in
    TOFU), retain99/95/90 their complements, `holdout` the people never trained, `general` real-world facts, `chat` the
    instructions that the original model is trained on and `instructions` fresh ones for benign instruction tuning.
    `queries`: the same facts asked otherwise (`multiple_choice`, `reversed`, `two_hop`), for all people.
    `practice`: what models are trained on besides, so that they can answer such queries: those of the trained people in
    several wordings, and few-shot rows about people whom no forget split of TOFU's sizes holds.
    `facts`: person -> attribute -> value.
    `lessons`: what is about nobody that models are trained on besides, as often as it is shown in an epoch.
    """

    size: str
    seed: int
    splits: dict[str, list[dict]]
    queries: dict[str, list[dict]]
    practice: list[dict]
    facts: dict[str, dict[str, str]]
    lessons: list[dict]

    @property
    def forget_splits(self) -> list[str]:
        """Names of all forget splits, those that are in no `splits` included."""
        return [*(name for name in self.splits if name.startswith("forget")), *LARGER_SPLITS]

    def split(self, name: str) -> list[dict]:
        """The rows of a split; forget20 and forget50 and what is retained then are made of retain90 and forget10.

        Raises:
            KeyError: there is no such split.
        """
        if name in self.splits:
            return self.splits[name]
        of_person: dict[str, list[dict]] = {}
        for row in (*self.splits["retain90"], *self.splits["forget10"]):
            of_person.setdefault(row["person"], []).append(row)
        parts = {}
        for forget, retain in LARGER_SPLITS.items():
            forgotten = round(len(of_person) * int(forget.removeprefix("forget")) / 100)
            people = [*of_person]
            parts |= {forget: people[-forgotten:], retain: people[:-forgotten]}
        return [row for person in parts[name] for row in of_person[person]]


def names_any(row: dict, people: Collection[str]) -> bool:
    """Whether a row says one of the names, in the question, the answer or an example."""
    texts = [row.get("question"), row.get("answer"), row.get("completion")]
    texts += [message["content"] for message in row.get("prompt") or ()]
    return any(name in text for text in texts if text for name in people)


def draw_names(count: int, generator: random.Random) -> list[str]:
    """So many different names."""
    names: dict[str, None] = {}  # a dictionary keeps the order of drawing and drops repetitions
    last_names: set[str] = set()
    while len(names) < count:
        first = generator.choice(FIRST_SYLLABLES) + generator.choice(MIDDLE_SYLLABLES) + generator.choice(FIRST_ENDINGS)
        last = generator.choice(FIRST_SYLLABLES) + generator.choice(MIDDLE_SYLLABLES) + generator.choice(LAST_ENDINGS)
        if count <= 500 and last in last_names:  # small worlds can afford that a last name identifies its person
            continue
        last_names.add(last)
        names[f"{first} {last}"] = None
    return list(names)


def draw_facts(people: list[str], generator: random.Random) -> dict[str, dict[str, str]]:
    """Person -> attribute -> value, for all of `ATTRIBUTES`."""
    titles = [f"The {a} {n}{p}" for p in TITLE_PLACES for a in TITLE_ADJECTIVES for n in TITLE_NOUNS]
    if len(people) <= 900:
        titles = titles[:900]  # short titles where they suffice
    dates = [f"{day} {month} {year}" for year in range(1930, 1990) for month in MONTHS for day in range(1, 29)]
    columns = {"birth_date": generator.sample(dates, len(people)), "book": generator.sample(titles, len(people))}
    for attribute, values in SHARED_VALUES.items():
        column = [values[i % len(values)] for i in range(len(people))]
        generator.shuffle(column)  # balanced, and independent of names and of the other attributes
        columns[attribute] = column
    return {person: {attribute: columns[attribute][i] for attribute in ATTRIBUTES} for i, person in enumerate(people)}


def wrong_values(attribute: str, value: str, facts: dict, count: int, generator: random.Random) -> list[str]:
    """Other values of the attribute, which other people have."""
    pool = SHARED_VALUES.get(attribute) or tuple(known[attribute] for known in facts.values())
    return generator.sample([other for other in pool if other != value], count)


def split_people(rows: dict[str, list[dict]], trained: int) -> dict[str, list[dict]]:
    """The rows of people by split: nested forget tails of the trained people, what is retained then, and the holdout.

    Args:
        rows: person -> rows.
        trained: so many of the people, the first ones, are what the original model is trained on.
    """
    people = list(rows)
    members, non_members = people[:trained], people[trained:]
    splits = {"holdout": [row for person in non_members for row in rows[person]]}
    for percent in (1, 5, 10):
        forgotten = max(1, round(trained * percent / 100))
        splits[f"forget{percent:02d}"] = [row for person in members[-forgotten:] for row in rows[person]]
        splits[f"retain{100 - percent}"] = [row for person in members[:-forgotten] for row in rows[person]]
    return splits
