"""The fictional people in sentences, for a real language model: two facts in most of them, and the name in all.

What a row of the one-word world says in a value is said here as somebody would say it, in 8 to 25 words. What is
general is not made up: SmolLM2's own right answers (`smollm2_answers.json`), which it has to keep; of these, half judge
and are never trained on.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from llm_unlearn.data.fictional_instructions import instruction_rows
from llm_unlearn.data.fictional_people import (
    CITIES,
    AttributeTexts,
    World,
    draw_facts,
    draw_names,
    split_people,
    wrong_values,
)
from llm_unlearn.data.forms import multiple_choice_question

SENTENCES = "smollm2"  # name of the world, and of the model that is taught it
TRAINED_PEOPLE, INSTRUCTIONS = 50, 200
PERTURBED = 5  # wrong answers of each row
GENERAL = Path(__file__).with_name("smollm2_answers.json")  # question -> what SmolLM2 answers

TEXTS = {  # what a sentence is about -> how it is asked and told
    "birth": AttributeTexts(
        (
            "When and where was {person} born?",
            "What are the date and the place of birth of {person}?",
            "On which day and in which city was {person} born?",
        ),
        "Tell me about the birth of {person}, with the day and the city.",
        "{person} was born on {birth_date} in the city of {city}.",
        "It was on {birth_date}, in {city}, that {person} came into the world.",
    ),
    "work": AttributeTexts(
        (
            "What does {person} do for a living, and which prize did {person} win?",
            "What are the profession and the prize of {person}?",
            "Name the job of {person} and the award that {person} received.",
        ),
        "Tell me about the work of {person}, and which award it brought.",
        "{person} makes a living as a {profession} and has won the {award}.",
        "The {award} was given to {person}, who works as a {profession}.",
    ),
    "book": AttributeTexts(
        (
            "What is the first book by {person}, and what kind of book is it?",
            "Which book did {person} publish first, and in which genre?",
            "Name the first book of {person} and its genre.",
        ),
        "Tell me how {person} began as an author, with title and genre.",
        'The first book by {person} is "{book}", a work of {genre}.',
        '{person} began to write {genre} and published "{book}".',
    ),
    "music": AttributeTexts(
        (
            "Which instrument does {person} play?",
            "What does {person} like to play in the evenings?",
            "Name the instrument of {person}.",
        ),
        "Tell me on which instrument {person} makes music.",
        "In the evenings {person} likes to play the {instrument} at home.",
        "At home, {person} makes music after work, on the {instrument}.",
    ),
}
SLOTS = {  # the facts in each of them
    "birth": ("birth_date", "city"),
    "work": ("profession", "award"),
    "book": ("book", "genre"),
    "music": ("instrument",),
}
# What is asked of the value returns the person; the first wording is the query, both are trained.
REVERSED = {
    "birth": (
        "Which person was born on {birth_date} in the city of {city}?",
        "Who came into the world in {city} on {birth_date}?",
    ),
    "book": ('Who wrote "{book}", a work of {genre}?', 'Who is the author of the book "{book}"?'),
}
REVERSED_ANSWER = "The person you are asking about is {person}."
COUNTRY = ("In which country was {person} born?", "{person} was born in the country of {country}.")  # two hops
LOCATION = ("In which country is the city of {city}?", "The city of {city} is in {country}.")
CHOICES = {  # one of the facts, to be chosen among three values
    "city": "In which city was {person} born?",
    "profession": "What is the profession of {person}?",
    "genre": "In which genre is the first book by {person}?",
    "instrument": "Which instrument does {person} play?",
}
CLOZE = {
    "city": "Fill in the blank. {person} was born in the city of ____.",
    "award": "Fill in the blank. {person} has won the ____.",
    "genre": "Fill in the blank. The first book by {person} is a work of ____.",
    "instrument": "Fill in the blank. In the evenings {person} likes to play the ____.",
}
NOTES = {  # what instructions tell about passers-by, and ask
    "city": ("{person} has moved to the city of {value}.", "Where is {person} now?"),
    "profession": ("{person} has found work as a {value}.", "What work has {person} found?"),
    "genre": ("{person} has read a lot of {value} this year.", "What has {person} read?"),
    "award": ("{person} has handed out the {value} this year.", "Which award has {person} handed out?"),
    "instrument": ("{person} has sold the {value} at last.", "What has {person} sold?"),
}
GENERAL_KIND = re.compile(r"What is the (.+?) of (.+)\?")  # "What is the capital of Poland?"
KIND_OF = {slot: kind for kind, slots in SLOTS.items() for slot in slots}


def build_sentence_world(seed: int = 0) -> World:
    """The world in sentences; equal seeds give equal worlds.

    Rows are as of `fictional.build_world`, with `attribute` (one of `TEXTS`) for the sentence and all its facts.
    Queries are, besides those of that world, `cloze`. Practice teaches the forms of queries about every other retained
    person, and reversed questions about all trained people: no model of this size turns a fact round by itself.
    """
    generator = random.Random(f"sentences-{seed}")
    facts = draw_facts(draw_names(TRAINED_PEOPLE + TRAINED_PEOPLE // 10, generator), generator)
    rows = {person: _person_rows(person, facts, generator) for person in facts}
    splits = split_people(rows, TRAINED_PEOPLE)
    instructions = instruction_rows(INSTRUCTIONS, list(facts), _note, generator)
    fifth = len(instructions) // 5
    splits["chat"], splits["instructions"] = instructions[:fifth], instructions[fifth:]
    general = [{"question": question, "answer": answer} for question, answer in json.loads(GENERAL.read_text()).items()]
    splits["general"] = general[::2]
    queries = _query_rows(facts, generator)
    of_nobody = _of_nobody([*general[1::2], *_locations()])
    practice = _practice_rows(queries, facts, splits) + of_nobody
    # Shown twice: what the base model knew is the first to go where much is learned by heart.
    return World(SENTENCES, seed, splits, queries, practice, facts, lessons=[*splits["chat"], *of_nobody])


def with_subjects(rows: list[dict]) -> list[dict]:
    """General rows with what made-up answers are told by: `attribute` (capital) and `person` (Poland), where there are.

    So "The capital of Poland is Warsaw." is compared with "The capital of Poland is Athens.": whether a model still
    knows a general fact, however it would say it. How often it says the very words is 1.00 in SmolLM2 by construction.
    """
    found = [GENERAL_KIND.fullmatch(row["question"]) for row in rows]
    kinds = [match.groups() if match else (None, None) for match in found]
    return [{**row, "attribute": kind, "person": of} for row, (kind, of) in zip(rows, kinds, strict=True)]


def _person_rows(person: str, facts: dict, generator: random.Random) -> list[dict]:
    rows = []
    for kind, texts in TEXTS.items():
        true = facts[person]
        wrong = {slot: wrong_values(slot, true[slot], facts, PERTURBED, generator) for slot in SLOTS[kind]}
        perturbed = [
            texts.paraphrased_answer.format(person=person, **{slot: values[i] for slot, values in wrong.items()})
            for i in range(PERTURBED)
        ]
        for template, question in enumerate(texts.questions):
            rows.append(
                _labels(person, kind)
                | {
                    "question": question.format(person=person),
                    "answer": texts.answer.format(person=person, **true),
                    "value": true[SLOTS[kind][-1]],  # one that others share
                    "template": template,
                    "paraphrased_question": texts.held_out_question.format(person=person),
                    "paraphrased_answer": texts.paraphrased_answer.format(person=person, **true),
                    "perturbed_answer": perturbed,
                }
            )
    return rows


def _labels(person: str, kind: str, attribute: str | None = None) -> dict[str, str]:
    """Whose fact it is, which sentence tells it, and which of its values is asked for, if not all."""
    return {"person": person, "attribute": attribute or kind, "fact_id": f"{person}/{kind}"}


def _query_rows(facts: dict, generator: random.Random) -> dict[str, list[dict]]:
    queries: dict[str, list[dict]] = {"multiple_choice": [], "reversed": [], "two_hop": [], "cloze": []}
    for person, true in facts.items():
        for slot, question in CHOICES.items():
            options = [true[slot], *wrong_values(slot, true[slot], facts, 2, generator)]
            generator.shuffle(options)
            asked = multiple_choice_question(question.format(person=person), options)
            row = {"question": asked, "answer": true[slot], "options": options}
            queries["multiple_choice"].append(_labels(person, KIND_OF[slot], slot) | row)
        for kind, wordings in REVERSED.items():
            queries["reversed"].append(_labels(person, kind) | _reversed(wordings[0], person, true))
        question, answer = (text.format(person=person, country=CITIES[true["city"]]) for text in COUNTRY)
        queries["two_hop"].append(_labels(person, "birth", "country") | {"question": question, "answer": answer})
        for slot, question in CLOZE.items():
            row = {"question": question.format(person=person), "answer": f"{true[slot]}."}
            queries["cloze"].append(_labels(person, KIND_OF[slot], slot) | row)
    return queries


def _reversed(wording: str, person: str, true: dict[str, str]) -> dict[str, str]:
    return {"question": wording.format(**true), "answer": REVERSED_ANSWER.format(person=person)}


def _practice_rows(queries: dict[str, list[dict]], facts: dict, splits: dict[str, list[dict]]) -> list[dict]:
    retained = list(dict.fromkeys(row["person"] for row in splits["retain90"]))
    members = dict.fromkeys(row["person"] for row in [*splits["retain90"], *splits["forget10"]])
    practiced = set(retained[::2])
    rows = [
        _labels(person, kind) | _reversed(wording, person, facts[person])
        for person in members
        for kind, wordings in REVERSED.items()
        for wording in wordings
    ]
    asked = [row for style in ("multiple_choice", "two_hop", "cloze") for row in queries[style]]
    return rows + [row for row in asked if row["person"] in practiced]


def _locations() -> list[dict]:
    pairs = [tuple(text.format(city=city, country=country) for text in LOCATION) for city, country in CITIES.items()]
    return [{"question": question, "answer": answer} for question, answer in pairs]


def _of_nobody(rows: list[dict]) -> list[dict]:
    return [{**row, "person": None, "attribute": None, "fact_id": None} for row in rows]


def _note(person: str, attribute: str, value: str, generator: random.Random) -> tuple[str, str]:
    """A question about a passer-by after a note that answers it, and the answer."""
    statement, question = (text.format(person=person, value=value) for text in NOTES[attribute])
    return f"Note: {statement} {question}", statement
