"""Rows that protect abilities in training and rows that judge them: never the same, none about a forgotten person."""

import json

import pytest
from datasets import Dataset

from llm_unlearn.data import load_unlearning_data
from llm_unlearn.data.general import split_by_content
from llm_unlearn.data.validation import row_keys
from llm_unlearn.errors import InputError

FORGET, RETAIN = ([{"question": f"Who is {name}?", "answer": f"{name}."}] for name in ("Ann", "Bob"))
OWN = [{"question": f"What is {i} plus 1?", "answer": f"{i + 1}"} for i in range(12)]


def load(**arguments):
    return load_unlearning_data((Dataset.from_list(FORGET), Dataset.from_list(RETAIN)), **arguments)


def error_of(**arguments):
    with pytest.raises(InputError) as caught:
        load(**arguments)
    return str(caught.value)


def written(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def keys(rows):
    return set(row_keys(rows, "rows"))


# ---- the fictional world ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forget", ["forget01", "forget05", "forget10"])
@pytest.mark.parametrize(("size", "chat"), [("tiny", 6), ("small", 40)])
def test_what_judges_is_never_trained_and_nobody_forgotten_occurs(size, chat, forget):
    data = load_unlearning_data(f"fictional:{size}", forget_split=forget)
    judging = {**data.evaluation, **data.retain_queries, **data.queries}
    trained = keys(data.general)
    for name, rows in judging.items():
        assert trained.isdisjoint(keys(rows)), name
    assert trained.isdisjoint(keys(data.forget))

    practiced, judged = {*data.general["person"]} - {None}, {*data.judged_people}
    assert practiced.isdisjoint(judged) and practiced | judged == {*data.retain["person"]}
    assert len(practiced) - len(judged) in (0, 1)
    for person in {*data.forget["person"]}:
        assert not [row for row in data.general if person in json.dumps(row)]

    # of each practiced person 7 choices, 2 facts reversed in 3 wordings, a country in 3; few-shot prompts; instructions
    few_shot = [row for row in data.general if len(row["prompt"]) > 1]
    assert few_shot and len(data.evaluation["chat"]) == chat
    assert len(data.general) - len(few_shot) == 16 * len(practiced) + chat
    of_a_judged = {"multiple_choice": 7, "reversed": 2, "two_hop": 1}
    assert {style: len(rows) for style, rows in data.retain_queries.items()} == {
        style: count * len(judged) for style, count in of_a_judged.items()
    }
    assert {*data.retain_queries["reversed"]["person"]} == judged


# ---- the user's own --------------------------------------------------------------------------------------------------


def test_without_general_data_there_are_none():
    data = load()
    assert (data.general, data.judged_people, data.retain_queries, data.evaluation) == (None, None, {}, {})
    assert load(general_data="none").general is None
    assert "general_data='embedded' is of the fictional world" in error_of(general_data="embedded")


def test_a_fifth_of_the_users_rows_judges(tmp_path):
    data = load(general_data=written(tmp_path / "general.jsonl", OWN))
    train, judge = data.general.to_list(), data.evaluation["general_data"].to_list()
    assert len(train) == 10 and len(judge) == 2
    assert train == [row for row in OWN if row not in judge]  # in the order of the file
    # What a row says decides, not its place; and a row that is there twice is on one side.
    other = load(general_data=Dataset.from_list([*reversed(OWN), *judge, train[0]]))
    assert keys(other.general) == keys(train) and len(other.general) == 11
    assert keys(other.evaluation["general_data"]) == keys(judge) and len(other.evaluation["general_data"]) == 4


def test_at_most_a_hundred_rows_judge():
    rows = [{"question": f"{i}?", "answer": "Yes."} for i in range(600)]
    train, judge = split_by_content(rows, "rows")
    assert (len(train), len(judge)) == (500, 100)


def test_instructions_and_other_row_formats(tmp_path):
    alpaca = [{"instruction": "Add", "input": f"{i} + 1", "output": f"{i + 1}", "text": "whole"} for i in range(5)]
    data = load(general_data=written(tmp_path / "alpaca.jsonl", alpaca))
    both = [*data.general, *data.evaluation["general_data"]]
    assert sorted(row["question"] for row in both) == [f"Add\n{i} + 1" for i in range(5)]
    chats = [
        {"messages": [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "a"}]} for i in range(5)
    ]
    data = load(general_data=written(tmp_path / "chats.json", chats))
    assert data.general.column_names == ["messages"] and len(data.general) == 4


def test_beside_the_fictional_world_the_users_rows_take_the_place_of_its_own(tmp_path):
    data = load_unlearning_data("fictional:tiny", general_data=written(tmp_path / "general.jsonl", OWN))
    assert len(data.general) == 10
    assert {name: len(rows) for name, rows in data.evaluation.items()} == {
        "general": 51,
        "instructions": 48,
        "chat": 6,
        "general_data": 2,
    }


def test_a_general_file_judges(tmp_path):
    path = written(tmp_path / "facts.jsonl", OWN)
    data = load(general_file=path)
    assert data.general is None and data.evaluation["general"].to_list() == OWN
    fictional = load_unlearning_data("fictional:tiny", general_file=path)
    assert fictional.evaluation["general"].to_list() == OWN and len(fictional.general) == 115


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"general_data": OWN[:4]},
            "general data has fewer than 5 different rows (4): give more, because one in 5 judges",
        ),
        (
            {"general_data": OWN + FORGET},
            "rows of the forget set that are in the general data set too: 1 (forget rows 0;",
        ),
        ({"general_data": OWN + RETAIN}, "rows of the retain set that are in the general data set too: 1"),
        ({"general_data": [{"a": "b"}] * 5}, "general data set: columns ['a'] fit no row format"),
        ({"general_file": OWN + FORGET}, "rows of the forget set that are in the general file set too: 1"),
        ({"general_file": RETAIN}, "rows of the retain set that are in the general file set too: 1"),
        (
            {"general_data": OWN, "general_file": OWN},
            "rows of the general set that are in the general file set too: 10",
        ),
    ],
)
def test_rows_that_exclude_each_other(arguments, message):
    assert message in error_of(**{name: Dataset.from_list(rows) for name, rows in arguments.items()})


def test_files_that_are_not_there():
    assert "--general_data 'facts.jsonl' is none of" in error_of(general_data="facts.jsonl")
    assert "file 'facts.jsonl' does not exist" in error_of(general_file="facts.jsonl")
