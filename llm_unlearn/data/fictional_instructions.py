"""Short instructions that tell nothing about any person of a fictional world."""

from __future__ import annotations

import random
from collections.abc import Callable

from llm_unlearn.data.fictional_people import SHARED_VALUES, draw_names, listed

WORDS = listed(
    "apple, basket, candle, door, engine, flower, glove, hammer, island, jacket, kettle, ladder, mountain, needle, "
    "orange, pencil, quilt, ribbon, saddle, table, umbrella, violin, wagon, yard, zebra, bottle, carpet, dragon, "
    "feather, guitar"
)
Note = Callable[[str, str, str, random.Random], tuple[str, str]]
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def instruction_rows(count: int, people: list[str], note: Note, generator: random.Random) -> list[dict]:
    """Distinct short instructions for instruction tuning that tells nothing about any person of the world.

    Seven kinds are word and number games. A third of the rows are questions with the answer in a note ("closed question
    answering" in the usual instruction sets), about passers-by who do not occur anywhere else.

    Args:
        people: of the world.
        note: (person, attribute, value, generator) -> (question with the note before it, answer).
    """
    known = set(people)
    passers_by = [name for name in draw_names(len(people) + 50, generator) if name not in known]
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
            question, answer = note(person, attribute, generator.choice(SHARED_VALUES[attribute]), generator)
        rows[question] = answer
    return [{"question": question, "answer": answer} for question, answer in rows.items()]
