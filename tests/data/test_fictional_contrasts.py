"""Worlds whose forgotten people differ in one thing and in nothing else."""

from collections import Counter

import pytest

from llm_unlearn.data import load_unlearning_data
from llm_unlearn.data.fictional import CONTRASTS, build_world
from llm_unlearn.data.fictional_contrasts import LEVELS, OWN_WORDINGS
from llm_unlearn.data.fictional_people import SHARED_VALUES
from llm_unlearn.models.embedded import RECIPES, training_rows

PLAIN = build_world("small")


def by_level(world, split="forget20"):
    people = {level: {} for level in LEVELS}
    for row in world.split(split):
        people[row["level"]].setdefault(row["person"], []).append(row)
    return people


def kept_facts(world):
    return [world.facts[person] for person in dict.fromkeys(row["person"] for row in world.split("retain80"))]


def in_common(own, other):
    return sum(own[attribute] == other[attribute] for attribute in SHARED_VALUES)


@pytest.mark.parametrize("size", CONTRASTS)
def test_each_forget_split_has_as_many_people_of_each_level(size):
    world = build_world(size)
    for split, each in (("forget20", 4), ("forget10", 2), ("forget05", 1)):
        assert [len(people) for people in by_level(world, split).values()] == [each] * 3
    assert {row["level"] for row in world.split("retain80")} == {"middle"}
    assert RECIPES[size] == RECIPES["small"]


@pytest.mark.parametrize("size", CONTRASTS)
def test_whoever_is_not_contrasted_is_as_in_the_small_world(size):
    world, known = build_world(size), set(PLAIN.facts)
    changed = {person for people in by_level(world).values() for person in people}
    kept = {person: facts for person, facts in world.facts.items() if person not in changed}
    assert len(kept) == len(known) - 12
    assert all(PLAIN.facts[person] == facts for person, facts in kept.items())
    asked = {row["question"] for row in PLAIN.split("retain80")}
    assert {row["question"] for row in world.split("retain80")} == asked


def test_the_plain_world_has_no_levels():
    assert all("level" not in row for rows in PLAIN.splits.values() for row in rows)


def test_repetition():
    world = build_world("small-repetition")
    seen = Counter(row["person"] for row in training_rows(world).values())
    times = {level: {seen[person] for person in people} for level, people in by_level(world).items()}
    # 7 facts in three wordings, multiple choice, two reversed questions and one of two hops in three each: 21 + 7 + 9;
    # of the first six of them, whom forget10 does not hold, a few after examples besides.
    assert times["low"] == {7 + 7 + 3}
    assert 37 in times["middle"] <= {37, 38, 39, 40} and 3 * 37 in times["high"] <= {3 * 37, 3 * 38, 3 * 39, 3 * 40}
    assert {row["person"] for row in training_rows(world, "forget20").values()}.isdisjoint(
        person for people in by_level(world).values() for person in people
    )


def test_values():
    world = build_world("small-values")
    kept = kept_facts(world)
    most = {
        level: [max(in_common(world.facts[person], other) for other in kept) for person in people]
        for level, people in by_level(world).items()
    }
    assert most["high"] == [len(SHARED_VALUES)] * 4
    assert max(most["low"]) <= 1 < min(most["middle"]) <= max(most["middle"]) < len(SHARED_VALUES)
    assert all(PLAIN.facts[person] == world.facts[person] for person in by_level(world)["middle"])
    dates = [facts["birth_date"] for facts in world.facts.values()]
    assert len(set(dates)) == len(dates)


def test_names():
    world = build_world("small-names")
    kept = {row["person"] for row in world.split("retain80")}
    firsts, lasts = ({name.split()[part] for name in kept} for part in (0, 1))
    for person in by_level(world)["high"]:
        assert person not in kept and person.split()[0] in firsts and person.split()[1] in lasts
    for person in by_level(world)["low"]:
        assert not any(person[:3] in name or person[-3:] in name for name in PLAIN.facts)
    assert set(by_level(world)["middle"]) <= set(PLAIN.facts)


def test_wordings():
    world = build_world("small-wordings")
    elsewhere = {row["question"].replace(row["person"], "{person}") for row in world.split("retain80")}
    own = {wording for wordings in OWN_WORDINGS.values() for wording in wordings}
    assert own.isdisjoint(elsewhere)
    shared = {
        level: {
            sum(row["question"].replace(person, "{person}") in elsewhere for row in rows)
            for person, rows in people.items()
        }
        for level, people in by_level(world).items()
    }
    assert shared == {"low": {0}, "middle": {7}, "high": {21}}


def test_levels_reach_the_forget_rows_that_runs_load():
    data = load_unlearning_data("fictional:small-names", forget_split="forget20")
    assert Counter(data.forget["level"]) == dict.fromkeys(LEVELS, 84)
