"""The fictional world in sentences: the same facts as somebody would tell them, and nothing that gives them away."""

import json
import re

import pytest

from llm_unlearn.data import load_unlearning_data
from llm_unlearn.data.fictional import build_world
from llm_unlearn.data.fictional_people import CITIES
from llm_unlearn.data.fictional_sentences import GENERAL, SLOTS, TEXTS
from llm_unlearn.data.made_up import MADE_UP, kind_column, with_made_up_answers
from llm_unlearn.data.queries import forget_queries, retained_queries


@pytest.fixture(scope="module")
def world():
    return build_world("smollm2")


@pytest.fixture(scope="module")
def data():
    return load_unlearning_data("fictional:smollm2")


def test_equal_seeds_give_equal_worlds(world):
    assert json.dumps(vars(world)) == json.dumps(vars(build_world("smollm2")))
    assert world.facts != build_world("smollm2", 1).facts


def test_every_answer_is_a_sentence_with_the_name_and_all_its_facts(world):
    for row in [*world.splits["retain90"], *world.splits["forget10"], *world.splits["holdout"]]:
        true = world.facts[row["person"]]
        for told in (row["answer"], row["paraphrased_answer"]):
            assert 8 <= len(told.split()) <= 25 and told.endswith(".")
            assert row["person"] in told and all(true[slot] in told for slot in SLOTS[row["attribute"]])
        assert row["person"] in row["question"] and row["person"] in row["paraphrased_question"]
        for wrong in row["perturbed_answer"]:
            assert row["person"] in wrong and wrong != row["paraphrased_answer"]
            assert not any(f"{true[slot]}" in wrong for slot in SLOTS[row["attribute"]])


def test_held_out_wordings_are_never_trained(world):
    trained = {row["question"] for row in [*world.splits["retain90"], *world.splits["forget10"], *world.practice]}
    assert not trained & {row["paraphrased_question"] for row in world.splits["retain90"]}
    assert all(len(texts.questions) == 3 for texts in TEXTS.values())


def test_of_forgotten_people_only_reversed_questions_are_practiced(world):
    """Their other queries are asked in a form that was practiced on others."""
    forgotten = {row["person"] for row in world.splits["forget10"]}
    practiced = [row for row in world.practice if row["person"] in forgotten]
    assert len(practiced) == 5 * 4 and all(row["answer"].endswith(f"is {row['person']}.") for row in practiced)
    for row in world.queries["reversed"]:
        assert row["person"] not in row["question"] and row["person"] in row["answer"]


def test_general_facts_are_the_base_models_own_and_one_half_is_never_trained(world, data):
    answers = json.loads(GENERAL.read_text())
    judged = {row["question"]: row["answer"] for row in world.splits["general"]}
    trained = {row["question"] for row in world.practice if row["person"] is None}
    assert judged.items() <= answers.items() and not judged.keys() & trained
    assert len(answers) == len(judged) + len(trained - {f"In which country is the city of {city}?" for city in CITIES})
    assert trained <= {row["prompt"][0]["content"] for row in data.general}
    assert data.evaluation["general"]["question"] == list(judged)


def test_general_facts_are_compared_with_others_told_of_the_same_subject(data):
    """ "The capital of Poland is Athens.": nothing but the fact tells it from the true answer."""
    rows = with_made_up_answers(data.evaluation["general"], "attribute")
    poland = next(row for row in rows if row["person"] == "Poland")
    assert poland["attribute"] == "capital" and len(poland[MADE_UP]) == 6
    assert all(answer.startswith("The capital of Poland is ") and "Warsaw" not in answer for answer in poland[MADE_UP])
    without = [row["question"] for row in rows if not row[MADE_UP]]
    assert without and all(len(row[MADE_UP]) in (0, 4, 6) for row in rows) and len(without) <= 3


def test_facts_are_asked_in_every_style(data):
    counts = {style: len(rows) for style, rows in forget_queries(data).items()}
    assert counts == {
        "verbatim": 60,
        "paraphrased": 20,
        "prefix": 20,
        "few_shot": 20,
        "multiple_choice": 20,
        "reversed": 10,
        "two_hop": 5,
        "cloze": 20,
    }
    assert retained_queries(data).keys() == counts.keys()


def test_made_up_answers_are_told_of_the_person_who_is_asked_about(data):
    """Else the name would tell the true answer from them."""
    for style, rows in forget_queries(data).items():
        judged = with_made_up_answers(rows, kind_column(rows))
        for row in judged:
            answer = row.get("answer") or row["completion"]
            assert answer not in row[MADE_UP]
            for other in row[MADE_UP]:
                names = re.findall("|".join(data.forget.unique("person")), other)
                assert set(names) <= {row["person"]} or (style == "reversed" and names and row["person"] not in other)
        assert style == "prefix" or all(judged[MADE_UP])


def test_both_facts_of_a_city_and_its_country_are_consistent(world):
    for row in world.queries["two_hop"]:
        assert row["answer"].endswith(f"{CITIES[world.facts[row['person']]['city']]}.")
