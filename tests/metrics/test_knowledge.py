"""Knowledge: wins by hand, and its null, which is exact where made-up answers are exchangeable with the true one."""

import itertools
import random

import pytest
from datasets import Dataset

from llm_unlearn.data.made_up import MadeUpAnswers
from llm_unlearn.metrics import knowledge, knowledge_wins


def test_wins_by_hand():
    assert knowledge_wins(-1.0, [-2.0, -1.0, -0.5]) == [1.0, 0.5, 0.0]
    assert knowledge_wins(-1.0, []) == []


def test_every_comparison_counts_alike_and_not_every_row():
    assert knowledge({"0": {"wins": [1.0, 1.0, 0.0]}, "3": {"wins": [0.5]}, "4": {"wins": []}}) == 2.5 / 4
    assert knowledge({"0": {"wins": []}}) is None and knowledge({}) is None


def known_by(preferences, values, most):
    """(sum of wins, comparisons) of a model with fixed preferences, where the people have these values."""
    rows = {
        "question": [f"Where is {i}?" for i in range(len(values))],
        "answer": values,
        "kind": ["city"] * len(values),
    }
    answers = MadeUpAnswers(Dataset.from_dict(rows), "kind")
    wins = [
        win
        for person, value in enumerate(values)
        for win in knowledge_wins(
            preferences[person][value], [preferences[person][o] for o in answers.of(person, most=most)]
        )
    ]
    return sum(wins), len(wins)


# Person -> what a model that never saw any of them makes of each value; "Rome", which is true of two, is preferred.
PREFERENCES = [
    {"Rome": -1.0, "Oslo": -3.0, "Lima": -2.0, "Kyiv": -2.0},
    {"Rome": -0.5, "Oslo": -0.7, "Lima": -9.0, "Kyiv": -1.0},
    {"Rome": -2.0, "Oslo": -2.0, "Lima": -2.5, "Kyiv": -8.0},
    {"Rome": -4.0, "Oslo": -1.0, "Lima": -5.0, "Kyiv": -6.0},
    {"Rome": -1.0, "Oslo": -1.5, "Lima": -1.2, "Kyiv": -1.1},
]


@pytest.mark.parametrize("most", [2, 6])
def test_whoever_never_saw_the_facts_has_a_half_exactly(most):
    """All 60 ways in which five values, two of them the same, can be true of five people."""
    found = [
        known_by(PREFERENCES, values, most)
        for values in set(itertools.permutations(["Rome", "Rome", "Oslo", "Lima", "Kyiv"]))
    ]
    assert len(found) == 60 and len({wins for wins, _ in found}) > 5  # single worlds are luck
    assert sum(wins for wins, _ in found) / sum(count for _, count in found) == 0.5


def test_to_know_only_which_answers_are_frequent_is_no_knowledge():
    values, generator = ["Rome"] * 7 + ["Oslo"] * 4 + ["Lima"] * 2 + list("abcdefg"), random.Random(0)
    prior = {value: values.count(value) + 0.01 * number for number, value in enumerate(sorted(set(values)))}
    for _ in range(5):  # here in every world: where each prefers the same, a pair's two comparisons cancel out
        generator.shuffle(values)
        wins, count = known_by([prior] * len(values), values, 6)
        assert wins / count == 0.5


@pytest.mark.parametrize(("whose", "least", "most"), [("forgotten", 0.47, 0.53), ("retained", 0.8, 1.0)])
def test_values_of_retained_people_are_the_wrong_alternatives(whose, least, most):
    """A model that never saw the forgotten knows whose the retained values are, and so that they are not asked for."""
    generator, wins = random.Random(1), []
    for _ in range(200):
        forgotten, retained = ([generator.gauss(0, 1) for _ in range(6)] for _ in range(2))  # how likely values are
        known_elsewhere = 1.5  # nats less likely of others, since the model knows of whom it is true
        for person in range(6):
            others = forgotten[:person] + forgotten[person + 1 :]
            made_up = others if whose == "forgotten" else [value - known_elsewhere for value in retained]
            wins += knowledge_wins(forgotten[person], made_up)
    assert least <= sum(wins) / len(wins) <= most
