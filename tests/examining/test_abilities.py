"""What models are judged on: sets by name and size, and no row that judges an ability among those that are trained."""

import pytest
from datasets import Dataset

from llm_unlearn.data import UnlearningData, load_unlearning_data
from llm_unlearn.data.validation import row_keys
from llm_unlearn.examining.abilities import ability_label, ability_names, judged_sets, wholly_trained


@pytest.fixture(scope="module")
def tiny():
    return load_unlearning_data("fictional:tiny")


def test_rows_of_a_user_have_what_their_columns_allow():
    forget = [{"question": f"Who is {name}?", "answer": f"{name} is here.", "kind": "who"} for name in ("Ann", "Cal")]
    retain = [{"question": f"Who is {name}?", "answer": f"{name} is there."} for name in ("Bob", "Dan", "Eve")]
    data = UnlearningData(Dataset.from_list(forget), Dataset.from_list(retain), None, {}, "made up")
    judged = judged_sets(data, "kind")
    assert {name: len(rows) for name, rows in judged.sets.items()} == {
        "forget": 2,
        "retain": 3,
        "forget_prefix": 2,
        "forget_few_shot": 2,
        "retain_verbatim": 3,
        "retain_prefix": 3,
        "retain_few_shot": 3,
        "neighbor_nearest_question": 1,
    }
    assert ability_names(judged.sets) == ["retain", "retain_prefix", "retain_few_shot", "neighbor_nearest_question"]
    assert judged.generated == ("forget",) and judged.units["retain"] == [0, 1, 2]
    assert judged.sets["forget"]["made_up_answer"][:] == [["Cal is here."], ["Ann is here."]]
    assert "made_up_answer" not in judged.sets["retain"].column_names
    alone = judged_sets(UnlearningData(data.forget, None, None, {}, "made up"), None)
    assert list(alone.sets) == ["forget", "forget_prefix"] and ability_names(alone.sets) == []


def test_retained_rows_that_judge_can_be_fewer(tiny):
    """Evenly spread, of each set; what is forgotten and what else is measured stay whole."""
    whole, fewer = (judged_sets(tiny, "attribute", None, most) for most in (None, 4))
    assert list(whole.sets) == list(fewer.sets)
    for name, rows in whole.sets.items():
        if name.startswith("retain"):
            assert len(rows) > 4 and len(fewer.sets[name]) == 4 == len(fewer.units[name])
            assert fewer.sets[name].to_list() == [rows[i * len(rows) // 4] for i in range(4)]
        else:
            assert fewer.sets[name].to_list() == rows.to_list()


def test_rows_like_those_of_tofu_ask_the_perturbed_retain_rows():
    def rows(*names):
        return Dataset.from_list(
            [
                {
                    "question": f"Who is {name}?",
                    "answer": f"{name} writes.",
                    "paraphrased_answer": f"A writer is {name}.",
                    "perturbed_answer": [f"A cook is {name}.", f"A judge is {name}."],
                    "paraphrased_question": f"What does {name} do?",
                }
                for name in names
            ]
        )

    retain = rows("Bob", "Dan", "Eve").select_columns(["question", "answer"])
    evaluation = {"retain_perturbed": rows("Bob", "Dan"), "real_authors": rows("Poe"), "world_facts": rows("Io")}
    judged = judged_sets(UnlearningData(rows("Ann"), retain, None, evaluation, "made up"), None)
    styles = ("paraphrased", "prefix", "few_shot", "multiple_choice")
    sizes = {name: len(rows) for name, rows in judged.sets.items()}
    assert {name: sizes[f"retain_{name}"] for name in ("verbatim", *styles)} == dict.fromkeys(("verbatim", *styles), 2)
    assert {name: sizes[f"forget_{name}"] for name in styles} == dict.fromkeys(styles, 1)
    assert (sizes["retain"], sizes["real_authors"], sizes["world_facts"]) == (3, 1, 1)
    assert "retain_perturbed" not in sizes and "perturbed_answer" not in judged.sets["retain_verbatim"].column_names


def test_the_fictional_world_has_every_ability(tiny):
    judged = judged_sets(tiny, "attribute")
    styles = ("paraphrased", "prefix", "few_shot", "multiple_choice", "reversed", "two_hop")
    expected = {"retain", *(f"retain_{style}" for style in styles), "general", "instructions"}
    assert expected | {"neighbor_same_template", "neighbor_same_value"} == set(ability_names(judged.sets))
    assert judged.generated == ("forget", "instructions")
    assert all(len(judged.units[name]) == len(rows) for name, rows in judged.sets.items())
    assert all("made_up_answer" in judged.sets[f"{side}_reversed"].column_names for side in ("forget", "retain"))


def test_no_row_that_judges_an_ability_is_trained_but_the_retain_rows_themselves(tiny):
    trained = {*row_keys(tiny.general, "general"), *row_keys(tiny.retain, "retain"), *row_keys(tiny.forget, "forget")}
    judged = judged_sets(tiny, "attribute")
    for name in ability_names(judged.sets):
        is_retained = name == "retain" or name.startswith("neighbor_")
        found = set(row_keys(judged.sets[name], name))
        assert found <= trained if is_retained else not found & trained, name


def test_a_form_in_which_everything_is_trained_is_said_not_to_be_judged():
    every = {"augment_attributes": ["birth_date", "book", "city", "profession", "genre", "award", "instrument"]}
    data = load_unlearning_data("fictional", augment_forms=["multiple_choice", "cloze"], **every)
    assert "forget_multiple_choice" not in judged_sets(data, "attribute").sets
    assert [*wholly_trained(data)] == ["forget_multiple_choice"]  # nothing judges cloze in this world anyway


def test_examples_are_never_about_the_person_who_is_asked_about(tiny):
    judged = judged_sets(tiny, None)
    for name in ("forget_few_shot", "retain_few_shot"):
        for row in judged.sets[name]:
            assert row["person"] in row["prompt"][-1]["content"]
            assert not any(row["person"] in message["content"] for message in row["prompt"][:-1])


def test_abilities_have_names_that_readers_understand():
    names = ("retain", "retain_reversed", "general", "neighbor_same_value", "retain_few_shot", "my_own")
    assert [ability_label(name) for name in names] == [
        "retained facts",
        "retained facts, in reverse",
        "general facts",
        "neighbors: same answer, other people",
        "retained facts, after three examples",
        "my own",
    ]
