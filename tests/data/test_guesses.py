"""Guesses: answers of the same kind, each fact as likely as any other, told of the person who is asked about."""

from collections import Counter

import pytest
from datasets import Dataset

from llm_unlearn.data.guesses import guessed_answers
from llm_unlearn.errors import InputError


def facts(*people, kind="home", wordings=1):
    places = {"Ann": "Rome", "Ben": "Oslo", "Cal": "Rome", "Dora": "Lima"}
    return Dataset.from_list(
        [
            {
                "question": f"Where is {name}?" if number == 0 else f"{name} is where?",
                "answer": f"{name} is in {places[name]}.",
                "person": name,
                "attribute": kind,
                "fact_id": name,
            }
            for name in people
            for number in range(wordings)
        ]
    )


def test_each_fact_of_the_kind_is_as_likely_as_any_other_the_own_one_included():
    """Rome is true of two in four, however many wordings a fact has."""
    drawn = guessed_answers(facts("Ann", "Ben", wordings=2), facts("Cal", "Dora"), 2000, seed=0)
    assert len(drawn) == 4 * 2000
    of_ann = Counter(drawn[0::4])  # list after list, each with a guess for every row
    assert of_ann.keys() == {"Ann is in Rome.", "Ann is in Oslo.", "Ann is in Lima."}
    assert of_ann["Ann is in Rome."] / 2000 == pytest.approx(0.5, abs=0.04)
    assert of_ann["Ann is in Oslo."] / 2000 == pytest.approx(0.25, abs=0.04)
    assert all(answer.startswith("Ben is in ") for answer in drawn[2::4])
    assert drawn[0::4] != drawn[1::4]  # wordings are drawn apart


def test_the_seed_draws_and_more_guesses_begin_with_the_same():
    forget = facts("Ann", "Ben", "Cal")
    assert guessed_answers(forget, None, 5, seed=1) == guessed_answers(forget, None, 5, seed=1)
    assert guessed_answers(forget, None, 5, seed=1) != guessed_answers(forget, None, 5, seed=2)
    assert guessed_answers(forget, None, 9, seed=1)[: 5 * 3] == guessed_answers(forget, None, 5, seed=1)


def test_other_kinds_are_no_guesses():
    drawn = guessed_answers(facts("Ann", "Ben"), facts("Dora", kind="grave"), 50, seed=0)
    assert {answer.split()[-1] for answer in drawn} == {"Rome.", "Oslo."}


def test_what_cannot_be_guessed():
    rows = facts("Ann", "Ben").remove_columns("attribute")
    with pytest.raises(InputError, match=r"no column says which are: give the rows an `attribute` .* guess_source sam"):
        guessed_answers(rows, None, 2, seed=0)
    with pytest.raises(InputError, match=r"forget row 0 has attribute='home', of which there is no other answer"):
        guessed_answers(facts("Ann", "Cal"), None, 2, seed=0)
