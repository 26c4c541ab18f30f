"""The embedded fictional world: generated people with facts, so that unlearning can be judged without a hub.

Facts are drawn at random, so a model that never saw them can only guess: the score of such a model (the oracle) is the
true floor, and whatever an "unlearned" model scores above it was hidden, not erased.

Here an answer is a value in a few words, which a small model can be taught from scratch; `fictional_sentences` tells of
such people in sentences, to a real language model.
"""

from __future__ import annotations

import random

from llm_unlearn.data import fictional_contrasts as contrasts
from llm_unlearn.data.fictional_instructions import instruction_rows
from llm_unlearn.data.fictional_people import (
    CITIES,
    UNIQUE_ATTRIBUTES,
    AttributeTexts,
    World,
    draw_facts,
    draw_names,
    split_people,
    wrong_values,
)
from llm_unlearn.data.fictional_sentences import SENTENCES, build_sentence_world
from llm_unlearn.data.forms import multiple_choice_question
from llm_unlearn.data.queries import FEW_SHOT_EXAMPLES, few_shot_prompt
from llm_unlearn.errors import InputError

# People that the original model is trained on; one in ten as many again are never trained (non-members).
PEOPLE = {"tiny": 12, "small": 60, "medium": 2000}
INSTRUCTIONS = {"tiny": 60, "small": 400, "medium": 2000}
CONTRASTS = tuple(f"small-{factor}" for factor in contrasts.FACTORS)
FEW_SHOT_PRACTICE = {"tiny": 24, "small": 120, "medium": 1000}  # rows that teach the form, about retained people


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


def build_world(size: str = "small", seed: int = 0) -> World:
    """Generate the world of the given size; equal arguments give equal worlds.

    Rows have `question`, `answer`, `person`, `attribute`, `value`, `template` (index of the trained question template),
    `fact_id` (shared by all templates of one fact), `paraphrased_question` (a template never trained),
    `paraphrased_answer` and `perturbed_answer` (five wrong answers in the form of the paraphrased one).

    Args:
        size: tiny, small or medium; small-repetition, small-values, small-names or small-wordings, whose forgotten
            people differ in that (`fictional_contrasts`); or smollm2, the world in sentences (`fictional_sentences`).

    Raises:
        InputError: there is no world of that size.
    """
    if size == SENTENCES:
        return build_sentence_world(seed)
    if size not in (*PEOPLE, *CONTRASTS):
        known = ", ".join((*PEOPLE, *CONTRASTS, SENTENCES))
        raise InputError(f"fictional world size {size!r} is unknown; choose one of {known}")
    whole, (size, _, factor) = size, size.partition("-")
    generator = random.Random(f"fictional-{size}-{seed}")
    chosen = random.Random(f"{whole} {seed}")  # its own, so that whoever is not changed is as in the plain world
    trained = PEOPLE[size]
    everyone = trained + max(1, trained // 10)
    names = draw_names(everyone, generator)
    if factor == "names":
        names = contrasts.with_names(names, trained, chosen)
    facts = draw_facts(names, generator)
    if factor == "values":
        facts = contrasts.with_values(facts, trained, chosen)
    people = list(facts)
    levels = contrasts.contrast_levels(people, trained) if factor else {}
    texts = dict.fromkeys(people, TEXTS)
    if factor == "wordings":
        texts |= {person: contrasts.with_wordings(TEXTS, level) for person, level in levels.items()}
    rows = {person: _person_rows(person, facts, texts[person], generator) for person in facts}
    splits = split_people(rows, trained)
    instructions = instruction_rows(INSTRUCTIONS[size], people, _note, generator)
    fifth = len(instructions) // 5
    splits["chat"], splits["instructions"] = instructions[:fifth], instructions[fifth:]
    splits["general"] = _general_rows(generator)
    queries = _query_rows(facts, generator)
    members = set(people[:trained])
    practice = _practice_rows(queries, facts, members, splits["retain90"], FEW_SHOT_PRACTICE[size], generator)
    # General knowledge and instructions have one wording where a fact has three: shown thrice, they are learned alike.
    lessons = 3 * [*splits["general"], *splits["chat"]]
    world = World(whole, seed, splits, queries, practice, facts, lessons)
    if factor == "repetition":
        world = contrasts.with_repetition(world, levels)
    return contrasts.with_levels(world, levels) if factor else world


def _person_rows(person: str, facts: dict, texts_of: dict[str, AttributeTexts], generator: random.Random) -> list[dict]:
    rows = []
    for attribute, value in facts[person].items():
        texts = texts_of[attribute]
        wrong = wrong_values(attribute, value, facts, 5, generator)
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
            options = [value, *wrong_values(attribute, value, facts, 2, generator)]
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


def _note(person: str, attribute: str, value: str, generator: random.Random) -> tuple[str, str]:
    """A question about a passer-by after a note that answers it, and the answer."""
    texts = TEXTS[attribute]
    note = texts.paraphrased_answer.format(value=value)
    return f"Note on {person}: {note} {generator.choice(texts.questions).format(person=person)}", texts.answer.format(
        value=value
    )
