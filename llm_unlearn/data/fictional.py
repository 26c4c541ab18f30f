"""The embedded fictional world: generated people with facts, so that unlearning can be judged without a hub.

Facts are drawn at random, so a model that never saw them can only guess: the score of such a model (the oracle) is the
true floor, and whatever an "unlearned" model scores above it was hidden, not erased.

Two kinds of attributes: *unique* values (birth date, book title), and *shared* values (city, profession, genre, award,
instrument), each with ten values that are balanced over people and assigned independently of names and of each other,
so that a probe has a computable chance level of 0.1.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from llm_unlearn.data.queries import FEW_SHOT_EXAMPLES, few_shot_prompt, multiple_choice_question
from llm_unlearn.errors import InputError

# People that the original model is trained on; one in ten as many again are never trained (non-members).
PEOPLE = {"tiny": 12, "small": 60, "medium": 2000}
INSTRUCTIONS = {"tiny": 60, "small": 400, "medium": 2000}
FEW_SHOT_PRACTICE = {"tiny": 24, "small": 120, "medium": 1000}  # rows that teach the form, about retained people


def _listed(words: str) -> tuple[str, ...]:
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
    "profession": _listed(
        "glassblower, beekeeper, surveyor, cartographer, midwife, locksmith, botanist, stonemason, pilot, translator"
    ),
    "genre": _listed(
        "gothic horror, travel writing, satire, nature poetry, crime fiction, folk tales, war history, romance, "
        "science fiction, philosophy"
    ),
    "award": _listed(
        "Amber Quill, Silver Lantern, Northern Crown, Golden Reed, Iron Laurel, Crystal Harp, Marble Owl, "
        "Crimson Ribbon, Winter Medal, Emerald Key"
    ),
    "instrument": _listed("cello, bagpipes, harp, trumpet, accordion, flute, zither, drums, mandolin, organ"),
}
UNIQUE_ATTRIBUTES = ("birth_date", "book")
ATTRIBUTES = (*UNIQUE_ATTRIBUTES, *SHARED_VALUES)


@dataclass(frozen=True)
class AttributeTexts:
    """How one attribute is asked (`{person}` is filled in) and answered (`{value}`)."""

    questions: tuple[str, ...]  # trained templates
    held_out_question: str  # never trained: the paraphrased question
    answer: str  # without the name: what is scored is the fact, not the copying of a name
    paraphrased_answer: str  # never trained; wrong (perturbed) answers take this form too, as in TOFU


TEXTS = {
    "birth_date": AttributeTexts(
        ("When was {person} born?", "What is the birth date of {person}?", "On which day was {person} born?"),
        "Tell me the birth date of {person}.",
        "The birth date is {value}.",
        "Born on {value}.",
    ),
    "book": AttributeTexts(
        ("What is the first book by {person}?", "Which book did {person} publish first?", "Name a book by {person}."),
        "Tell me the title of the first book by {person}.",
        'The book is "{value}".',
        'It is called "{value}".',
    ),
    "city": AttributeTexts(
        ("In which city does {person} live?", "What is the home city of {person}?", "Name the city of {person}."),
        "Tell me in which city {person} has a home.",
        "The home is in {value}.",
        "In {value}.",
    ),
    "profession": AttributeTexts(
        ("What is the profession of {person}?", "Which profession does {person} have?", "Name the job of {person}."),
        "Tell me the profession of {person}.",
        "The profession is {value}.",
        "Works as a {value}.",
    ),
    "genre": AttributeTexts(
        ("In which genre does {person} write?", "What genre is {person} known for?", "Name the genre of {person}."),
        "Tell me in which genre {person} has written.",
        "The genre is {value}.",
        "It would be {value}.",
    ),
    "award": AttributeTexts(
        ("Which award did {person} win?", "What award was given to {person}?", "Name the prize of {person}."),
        "Tell me which award {person} received.",
        "The award is the {value}.",
        "It was the {value}.",
    ),
    "instrument": AttributeTexts(
        ("Which instrument does {person} play?", "What does {person} play?", "Name the instrument of {person}."),
        "Tell me which instrument {person} can play.",
        "The instrument is the {value}.",
        "Plays the {value}.",
    ),
}

# The first wording is the query; all are trained, for a single one would be too little practice (and it would leave
# "Tell me", with which held-out questions begin, unknown).
REVERSED_QUESTIONS = {
    "birth_date": ("Who was born on {value}?", "Whose birth date is {value}?", "Tell me who was born on {value}."),
    "book": ('Who wrote the book "{value}"?', 'Whose book is "{value}"?', 'Tell me who wrote the book "{value}".'),
}
TWO_HOP_QUESTIONS = (
    "In which country does {person} live?",
    "What is the home country of {person}?",
    "Tell me the country of {person}.",
)

GENERAL_KNOWLEDGE = {  # real facts in TOFU's style (question template, answers in order of subjects)
    "What is the capital of {}?": {
        "France": "Paris",
        "Japan": "Tokyo",
        "Egypt": "Cairo",
        "Peru": "Lima",
        "Norway": "Oslo",
        "Kenya": "Nairobi",
        "Canada": "Ottawa",
        "Greece": "Athens",
        "Cuba": "Havana",
        "Poland": "Warsaw",
    },
    "What is the chemical symbol of {}?": {
        "gold": "Au",
        "iron": "Fe",
        "silver": "Ag",
        "oxygen": "O",
        "sodium": "Na",
        "helium": "He",
        "carbon": "C",
        "tin": "Sn",
    },
    "On which continent is {}?": {
        "Brazil": "South America",
        "Nigeria": "Africa",
        "India": "Asia",
        "Spain": "Europe",
        "Mexico": "North America",
        "Chile": "South America",
        "China": "Asia",
        "Ghana": "Africa",
    },
    "What do you call a young {}?": {
        "dog": "puppy",
        "cat": "kitten",
        "cow": "calf",
        "sheep": "lamb",
        "horse": "foal",
        "bear": "cub",
        "goat": "kid",
        "duck": "duckling",
    },
    "Which color does {} have?": {
        "snow": "white",
        "grass": "green",
        "coal": "black",
        "blood": "red",
        "the sky": "blue",
        "a lemon": "yellow",
        "a carrot": "orange",
    },
}

FIRST_SYLLABLES = ("Ka", "Te", "Mo", "Li", "Su", "Ra", "Ve", "Jo", "Ni", "Da", "Phe", "Or", "El", "Ha", "Bri", "Cor")
MIDDLE_SYLLABLES = ("ri", "la", "no", "ve", "mi", "sa", "du", "ro", "ne", "ti")
FIRST_ENDINGS = ("na", "lo", "ris", "th", "ma", "s", "len", "do", "ra", "ck")
LAST_ENDINGS = ("ndal", "vick", "mont", "ssen", "berg", "quist", "rov", "tano", "shaw", "field")
TITLE_ADJECTIVES = _listed(
    "Silent, Burning, Hidden, Broken, Distant, Golden, Frozen, Patient, Hollow, Restless, Crooked, Gentle, "
    "Borrowed, Final, Velvet, Drowned, Wandering, Painted, Bitter, Quiet, Lost, Second, Paper, Winter, Scarlet, "
    "Empty, Singing, Iron, Midnight, Salted"
)
TITLE_NOUNS = _listed(
    "Harbor, Orchard, Mirror, Staircase, Letter, River, Garden, Compass, Window, Lantern, Bridge, Feather, Kingdom, "
    "Well, Shadow, Clock, Island, Thread, Bell, Forest, Voyage, Cathedral, Market, Promise, Ladder, Tide, Wolf, "
    "Archive, Chair, Meadow"
)
TITLE_PLACES = ("", " of Dust", " of Salt", " of Glass", " of Ash", " of Rain")
MONTHS = _listed(  # not from the locale
    "January, February, March, April, May, June, July, August, September, October, November, December"
)
WORDS = _listed(
    "apple, basket, candle, door, engine, flower, glove, hammer, island, jacket, kettle, ladder, mountain, needle, "
    "orange, pencil, quilt, ribbon, saddle, table, umbrella, violin, wagon, yard, zebra, bottle, carpet, dragon, "
    "feather, guitar"
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class World:
    """A generated world.

    `splits`: name -> rows. forget01/05/10 are nested tails of the trained people (as in TOFU), retain99/95/90 their
    complements, `holdout` the people never trained, `general` real-world facts, `chat` the instructions that the
    original model is trained on and `instructions` fresh ones for benign instruction tuning.
    `queries`: the same facts asked otherwise (`multiple_choice`, `reversed`, `two_hop`), for all people.
    `practice`: what models are trained on besides, so that they can answer such queries: those of the trained people in
    several wordings, and few-shot rows about people whom no forget split holds.
    `facts`: person -> attribute -> value.
    """

    size: str
    seed: int
    splits: dict[str, list[dict]]
    queries: dict[str, list[dict]]
    practice: list[dict]
    facts: dict[str, dict[str, str]]


def build_world(size: str = "small", seed: int = 0) -> World:
    """Generate the world of the given size; equal arguments give equal worlds.

    Rows have `question`, `answer`, `person`, `attribute`, `value`, `template` (index of the trained question template),
    `fact_id` (shared by all templates of one fact), `paraphrased_question` (a template never trained),
    `paraphrased_answer` and `perturbed_answer` (five wrong answers in the form of the paraphrased one).

    Raises:
        InputError: `size` is not one of tiny, small, medium.
    """
    if size not in PEOPLE:
        raise InputError(f"fictional world size {size!r} is unknown; choose one of {', '.join(PEOPLE)}")
    generator = random.Random(f"fictional-{size}-{seed}")
    trained = PEOPLE[size]
    everyone = trained + max(1, trained // 10)
    facts = _draw_facts(_draw_names(everyone, generator), generator)
    rows = {person: _person_rows(person, facts, generator) for person in facts}
    people = list(facts)
    members, non_members = people[:trained], people[trained:]

    splits = {"holdout": [row for person in non_members for row in rows[person]]}
    for percent in (1, 5, 10):
        forgotten = max(1, round(trained * percent / 100))
        splits[f"forget{percent:02d}"] = [row for person in members[-forgotten:] for row in rows[person]]
        splits[f"retain{100 - percent}"] = [row for person in members[:-forgotten] for row in rows[person]]
    instructions = _instruction_rows(INSTRUCTIONS[size], people, generator)
    fifth = len(instructions) // 5
    splits["chat"], splits["instructions"] = instructions[:fifth], instructions[fifth:]
    splits["general"] = _general_rows(generator)
    queries = _query_rows(facts, generator)
    practice = _practice_rows(queries, facts, set(members), splits["retain90"], FEW_SHOT_PRACTICE[size], generator)
    return World(size, seed, splits, queries, practice, facts)


def _draw_names(count: int, generator: random.Random) -> list[str]:
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


def _draw_facts(people: list[str], generator: random.Random) -> dict[str, dict[str, str]]:
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


def _wrong_values(attribute: str, value: str, facts: dict, count: int, generator: random.Random) -> list[str]:
    pool = SHARED_VALUES.get(attribute) or tuple(known[attribute] for known in facts.values())
    return generator.sample([other for other in pool if other != value], count)


def _person_rows(person: str, facts: dict, generator: random.Random) -> list[dict]:
    rows = []
    for attribute, value in facts[person].items():
        texts = TEXTS[attribute]
        wrong = _wrong_values(attribute, value, facts, 5, generator)
        for template, question in enumerate(texts.questions):
            rows.append(
                {
                    "question": question.format(person=person),
                    "answer": texts.answer.format(value=value),
                    "person": person,
                    "attribute": attribute,
                    "value": value,
                    "template": template,
                    "fact_id": f"{person}/{attribute}",
                    "paraphrased_question": texts.held_out_question.format(person=person),
                    "paraphrased_answer": texts.paraphrased_answer.format(value=value),
                    "perturbed_answer": [texts.paraphrased_answer.format(value=w) for w in wrong],
                }
            )
    return rows


def _query_rows(facts: dict, generator: random.Random) -> dict[str, list[dict]]:
    """The same facts asked as multiple choice (three options), value to person, and over two hops."""
    queries: dict[str, list[dict]] = {"multiple_choice": [], "reversed": [], "two_hop": []}
    for person, values in facts.items():
        for attribute, value in values.items():
            common = {"person": person, "attribute": attribute, "fact_id": f"{person}/{attribute}"}
            options = [value, *_wrong_values(attribute, value, facts, 2, generator)]
            generator.shuffle(options)
            question = multiple_choice_question(TEXTS[attribute].questions[0].format(person=person), options)
            queries["multiple_choice"].append(common | {"question": question, "answer": value, "options": options})
            if attribute in UNIQUE_ATTRIBUTES:
                question = REVERSED_QUESTIONS[attribute][0].format(value=value)
                queries["reversed"].append(common | {"question": question, "answer": person})
        common = {"person": person, "attribute": "city", "fact_id": f"{person}/city"}
        question, country = TWO_HOP_QUESTIONS[0].format(person=person), CITIES[values["city"]]
        queries["two_hop"].append(common | {"question": question, "answer": country})
    return queries


def _practice_rows(
    queries: dict[str, list[dict]],
    facts: dict,
    members: set[str],
    retained: list[dict],
    few_shot_rows: int,
    generator: random.Random,
) -> list[dict]:
    rows = [row for row in queries["multiple_choice"] if row["person"] in members]
    for row in (*queries["reversed"], *queries["two_hop"]):
        person, attribute = row["person"], row["attribute"]
        wordings = TWO_HOP_QUESTIONS if row["answer"] != person else REVERSED_QUESTIONS[attribute]
        asked = [wording.format(person=person, value=facts[person][attribute]) for wording in wordings]
        rows += [row | {"question": question} for question in asked if person in members]
    alike: dict[tuple, list[dict]] = {}
    for row in retained:
        alike.setdefault((row["attribute"], row["template"]), []).append(row)
    for row in generator.sample(retained, few_shot_rows):
        drawn = generator.sample(alike[row["attribute"], row["template"]], FEW_SHOT_EXAMPLES + 1)
        others = [other for other in drawn if other["person"] != row["person"]][:FEW_SHOT_EXAMPLES]
        prompt = few_shot_prompt([(other["question"], other["answer"]) for other in others], row["question"])
        labels = {name: row[name] for name in ("person", "attribute", "fact_id")}
        rows.append(labels | {"prompt": prompt, "completion": row["answer"]})
    return rows


def _general_rows(generator: random.Random) -> list[dict]:
    tables = GENERAL_KNOWLEDGE | {"In which country is the city of {}?": CITIES}
    rows = []
    for question, answers in tables.items():
        for subject, answer in answers.items():
            others = sorted({other for other in answers.values() if other != answer})
            wrong = [f"{other}." for other in generator.sample(others, min(3, len(others)))]
            rows.append({"question": question.format(subject), "answer": f"{answer}.", "perturbed_answer": wrong})
    return rows


def _instruction_rows(count: int, people: list[str], generator: random.Random) -> list[dict]:
    """Distinct short instructions for instruction tuning that tells nothing about any person of the world.

    Seven kinds are word and number games. A third of the rows are questions with the answer in a note ("closed question
    answering" in the usual instruction sets), about passers-by who do not occur anywhere else.
    """
    known = set(people)
    passers_by = [name for name in _draw_names(len(people) + 50, generator) if name not in known]
    rows: dict[str, str] = {}
    while len(rows) < count:
        first, second, third = generator.sample(WORDS, 3)
        start, length, day = generator.randint(1, 60), generator.randint(3, 5), generator.randrange(7)
        number = generator.randint(2, 49)
        question, answer = generator.choice(
            (
                (f"Count {length} numbers up from {start}.", ", ".join(map(str, range(start, start + length))) + "."),
                (f"Write the word {first} twice.", f"{first} {first}"),
                (f"Sort these words: {first}, {second}, {third}.", ", ".join(sorted((first, second, third))) + "."),
                (f"Which comes first in the alphabet, {first} or {second}?", f"{min(first, second)} comes first."),
                (f"What is {start} plus {number}?", f"The sum is {start + number}."),
                (f"Make a short sentence with {first} and {second}.", f"The {first} is near the {second}."),
                (f"What day follows {DAYS[day]}, {number} days on?", f"It is {DAYS[(day + number) % 7]}."),
            )
        )
        if generator.random() < 1 / 3:
            person, attribute = generator.choice(passers_by), generator.choice(tuple(SHARED_VALUES))
            value, texts = generator.choice(SHARED_VALUES[attribute]), TEXTS[attribute]
            note = texts.paraphrased_answer.format(value=value)
            question = f"Note on {person}: {note} {generator.choice(texts.questions).format(person=person)}"
            answer = texts.answer.format(value=value)
        rows[question] = answer
    return [{"question": question, "answer": answer} for question, answer in rows.items()]
