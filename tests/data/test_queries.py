"""The forget facts asked in seven ways, and their neighbors: rows worked by hand, and invariants of data sets."""

import json

import pytest
from datasets import Dataset

from llm_unlearn.data import UnlearningData, load_unlearning_data, split_row
from llm_unlearn.data.formats import listed, row_format
from llm_unlearn.data.queries import (
    MOST_NEIGHBORS,
    QUERY_STYLES,
    few_shot_prompt,
    forget_queries,
    multiple_choice_question,
    neighbor_facts,
)


def data_of(forget, retain=None, **queries):
    def dataset(rows):
        return None if rows is None else Dataset.from_list(rows)

    found = {style: dataset(rows) for style, rows in queries.items()}
    return UnlearningData(dataset(forget), dataset(retain), None, {}, "made up", found)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def as_json(datasets):
    return json.dumps({name: rows.to_list() for name, rows in datasets.items()})


@pytest.fixture(scope="module", params=["fictional:tiny", "fictional", "tofu"])
def data(request):
    if request.param == "tofu":
        return load_unlearning_data(request.getfixturevalue("shared_data") / "tofu")
    return load_unlearning_data(request.param)


TOFU = [
    {
        "question": "Who is Ann's father?",
        "answer": "He is a baker.",
        "paraphrased_answer": "A baker he is.",
        "perturbed_answer": ["A pilot he is.", "A judge he is.", "A baker he is."],
        "paraphrased_question": "What does the father of Ann do?",
    },
    {
        "question": "Where was Ann born?",
        "answer": "Rome.",
        "paraphrased_answer": "In Rome.",
        "perturbed_answer": ["In Oslo.", "In Bonn.", "In Kyiv."],
        "paraphrased_question": "What is Ann's place of birth?",
    },
]
RETAIN = [{"question": f"Where was {name} born?", "answer": f"In {city}."} for name, city in (("Bob", "Bern"),)]


# ---- TOFU and the user's own rows ------------------------------------------------------------------------------------


def test_every_style_of_rows_like_those_of_tofu():
    queries = forget_queries(data_of(TOFU, RETAIN))
    assert list(queries) == ["verbatim", "paraphrased", "prefix", "few_shot", "multiple_choice"]
    assert queries["verbatim"].to_list() == [row | {"row": number} for number, row in enumerate(TOFU)]
    assert queries["paraphrased"].to_list() == [
        {"question": "What does the father of Ann do?", "answer": "He is a baker.", "row": 0},
        {"question": "What is Ann's place of birth?", "answer": "Rome.", "row": 1},
    ]
    assert queries["prefix"].to_list() == [  # "Rome." has one word
        {"prompt": [user("Who is Ann's father?"), assistant("He is")], "completion": " a baker.", "row": 0}
    ]
    shown = [user("Where was Bob born?"), assistant("In Bern.")]
    assert queries["few_shot"].to_list() == [
        {"prompt": [*shown, user("Who is Ann's father?")], "completion": "He is a baker.", "row": 0},
        {"prompt": [*shown, user("Where was Ann born?")], "completion": "Rome.", "row": 1},
    ]
    first, second = queries["multiple_choice"]
    assert sorted(first["options"]) == ["A baker he is.", "A judge he is.", "A pilot he is."]
    assert first["answer"] == "A baker he is." and second["answer"] == "In Rome."
    assert first["question"] == "\n".join(["Who is Ann's father? Answer with one of the options:", *first["options"]])
    assert "In Rome." in second["options"] and len(set(second["options"])) == 3


def test_a_column_called_row_and_a_wrong_answer_outside_a_list():
    """As a spreadsheet has them: it can hold no lists."""
    rows = [row | {"row": 7, "perturbed_answer": "A judge he is."} for row in TOFU]
    queries = forget_queries(data_of(rows, RETAIN))
    assert queries["verbatim"]["row"][:] == [0, 1] and "multiple_choice" not in queries  # one is no choice of three
    assert listed("A judge.") == ["A judge."] and listed(None) == listed("") == listed(float("nan")) == []


def test_rows_of_a_user_have_the_styles_that_need_no_more_columns():
    forget = [{"question": "Who is Ann?", "answer": "I know Ann."}]
    assert list(forget_queries(data_of(forget))) == ["verbatim", "prefix"]
    assert list(forget_queries(data_of(forget, RETAIN))) == ["verbatim", "prefix", "few_shot"]
    wrong = [row | {"perturbed_answer": ["I know Bob.", "I know Cid."]} for row in forget]
    options = forget_queries(data_of(wrong))["multiple_choice"][0]["options"]
    assert sorted(options) == ["I know Ann.", "I know Bob.", "I know Cid."]


def test_messages_keep_their_turns_and_plain_text_asks_nothing():
    turns = [user("Hello"), assistant("Hi"), user("Who is Ann?"), assistant("Ann is here.")]
    queries = forget_queries(data_of([{"messages": turns}], RETAIN))
    assert queries["prefix"][0]["prompt"] == [*turns[:3], assistant("Ann")]
    assert queries["prefix"][0]["completion"] == " is here."
    assert queries["few_shot"][0]["prompt"][-1] == user("Who is Ann?")
    assert list(forget_queries(data_of([{"text": "Ann is here."}], RETAIN))) == ["verbatim"]
    assert list(forget_queries(data_of(TOFU, [{"text": "Bob is here."}]))) == [
        "verbatim",
        "paraphrased",
        "prefix",
        "multiple_choice",
    ]


def test_missing_cells_leave_a_row_out():
    without = dict.fromkeys(TOFU[0]) | {"question": "Who?", "answer": "Me."}
    rows = [without, {**TOFU[1], "perturbed_answer": ["In Oslo.", "In Oslo.", "In Rome."]}]
    queries = forget_queries(data_of(rows))
    assert list(queries) == ["verbatim", "paraphrased"]  # one wrong option is not enough
    assert queries["paraphrased"]["row"][:] == [1]


def test_a_fact_is_asked_once_and_verbatim_in_all_its_wordings():
    rows = [
        {"question": question, "answer": f"In {city}.", "fact_id": f"{name}/city", "person": name}
        for name, city in (("Ann", "Rome"), ("Bob", "Bern"))
        for question in (f"Where is {name}?", f"Name the city of {name}.")
    ]
    queries = forget_queries(data_of(rows, RETAIN))
    assert {style: found["row"][:] for style, found in queries.items()} == {
        "verbatim": [0, 1, 2, 3],
        "prefix": [0, 2],
        "few_shot": [0, 2],
    }
    assert queries["prefix"][1] == {
        "prompt": [user("Where is Bob?"), assistant("In")],
        "completion": " Bern.",
        "fact_id": "Bob/city",
        "person": "Bob",
        "row": 2,
    }


def test_examples_are_of_the_same_attribute_and_never_about_a_forgotten_person():
    def row(name, attribute):
        return {"question": f"{attribute} of {name}?", "answer": "x y", "attribute": attribute, "person": name}

    retain = [row(name, attribute) for name in ("Bob", "Cid", "Ann") for attribute in ("city", "age", "pet")]
    queries = forget_queries(data_of([row("Ann", "city"), row("Ann", "job")], retain))
    first, second = queries["few_shot"]["prompt"]
    assert sorted(message["content"] for message in first[:-1:2]) == ["city of Bob?", "city of Cid?"]
    assert len(second) == 7 and not any("Ann" in message["content"] for message in second[:-1])  # no job is retained


def test_what_the_loader_brings_replaces_what_rows_could_give():
    brought = [{"question": "Ann or Bob?", "answer": "Ann", "options": ["Ann", "Bob"], "fact_id": "b"}]
    forget = [row | {"fact_id": fact} for row, fact in zip(TOFU, "ab", strict=True)]
    queries = forget_queries(data_of(forget, multiple_choice=brought, two_hop=brought))
    assert queries["multiple_choice"].to_list() == queries["two_hop"].to_list() == [brought[0] | {"row": 1}]


def test_the_shape_of_few_shot_and_multiple_choice():
    assert few_shot_prompt([("1?", "one")], "2?") == [user("1?"), assistant("one"), user("2?")]
    assert multiple_choice_question("Which?", ["a", "b"]) == "Which? Answer with one of the options:\na\nb"


# ---- whole data sets -------------------------------------------------------------------------------------------------


def test_the_fictional_world_in_literals():
    data = load_unlearning_data("fictional:tiny")
    queries = forget_queries(data)
    assert {style: len(rows) for style, rows in queries.items()} == {
        "verbatim": 21,
        "paraphrased": 7,
        "prefix": 7,
        "few_shot": 7,
        "multiple_choice": 7,
        "reversed": 2,
        "two_hop": 1,
    }
    labels = {"fact_id": "Pherolen Phesaquist/award", "person": "Pherolen Phesaquist", "attribute": "award", "row": 15}
    question = "Which award did Pherolen Phesaquist win?"
    assert queries["paraphrased"][5] == labels | {
        "question": "Tell me which award Pherolen Phesaquist received.",
        "answer": "The award is the Marble Owl.",
    }
    assert queries["prefix"][5] == labels | {
        "prompt": [user(question), assistant("The award is")],
        "completion": " the Marble Owl.",
    }
    assert queries["few_shot"][5] == labels | {
        "prompt": [
            user("Which award did Corroth Dalavick win?"),
            assistant("The award is the Amber Quill."),
            user("Which award did Molana Cornefield win?"),
            assistant("The award is the Winter Medal."),
            user("Which award did Suroth Darotano win?"),
            assistant("The award is the Northern Crown."),
            user(question),
        ],
        "completion": "The award is the Marble Owl.",
    }
    assert queries["multiple_choice"][5] == labels | {
        "question": f"{question} Answer with one of the options:\nGolden Reed\nEmerald Key\nMarble Owl",
        "answer": "Marble Owl",
        "options": ["Golden Reed", "Emerald Key", "Marble Owl"],
    }
    asked = {style: (queries[style][-1]["question"], queries[style][-1]["answer"]) for style in ("reversed", "two_hop")}
    assert asked == {
        "reversed": ('Who wrote the book "The Paper Kingdom"?', "Pherolen Phesaquist"),
        "two_hop": ("In which country does Pherolen Phesaquist live?", "Velmark"),
    }


def test_every_query_can_be_judged_and_leads_back_to_its_fact(data):
    queries = forget_queries(data)
    assert list(queries) == list(QUERY_STYLES)[: len(queries)]
    forget = data.forget.to_list()
    facts = {row.get("fact_id", number) for number, row in enumerate(forget)}
    for style, rows in queries.items():
        form = row_format(rows.column_names)
        for row in rows:
            prompt, answer = split_row(row, form)
            origin = forget[row["row"]]
            assert all(row[name] == origin[name] for name in ("fact_id", "person", "attribute") if name in origin)
            if style == "prefix":
                assert prompt[-1]["content"] + answer == origin["answer"] and answer.startswith(" ")
            elif style in ("verbatim", "paraphrased", "few_shot"):
                assert answer == origin["answer"]
            elif style == "multiple_choice":
                assert answer in row["options"] and len(set(row["options"])) == 3
        asked = [row.get("fact_id", row["row"]) for row in rows]
        if style in ("reversed", "two_hop"):
            assert len(asked) == len(set(asked)) and set(asked) < facts
        elif style != "verbatim":
            assert asked == list(dict.fromkeys(row.get("fact_id", number) for number, row in enumerate(forget)))


def test_options_are_in_no_telling_order(data):
    rows = forget_queries(data)["multiple_choice"]
    if len(rows) < 40:
        pytest.skip("too few rows to judge an order by")
    positions = [row["options"].index(row["answer"]) for row in rows]
    assert min(positions.count(i) for i in range(3)) > 0.2 * len(rows)


def test_queries_and_neighbors_are_the_same_every_time_and_do_not_depend_on_other_rows(data):
    queries = forget_queries(data)
    assert as_json(queries) == as_json(forget_queries(data))
    assert as_json(neighbor_facts(data)) == as_json(neighbor_facts(data))
    tail = data.forget.select(range(len(data.forget) - 3, len(data.forget)))
    alone = forget_queries(UnlearningData(tail, data.retain, None, {}, ""))
    for style in ("few_shot", "paraphrased", "prefix"):
        last, again = queries[style][-1], alone[style][-1]
        assert {**last, "row": 0} == {**again, "row": 0}


def test_examples_and_neighbors_are_retained_rows_and_about_nobody_in_the_forget_set(data):
    retained = set(zip(data.retain["question"], data.retain["answer"], strict=True))
    people = {"Hsiao Yun-Hwa", "Carmen Montenegro"}  # two of TOFU's twenty
    if "person" in data.forget.column_names:
        people = set(data.forget["person"])
    shown = [(row["question"], row["answer"]) for rows in neighbor_facts(data).values() for row in rows]
    for prompt in forget_queries(data)["few_shot"]["prompt"]:
        texts = [message["content"] for message in prompt[:-1]]
        assert len(set(texts[::2])) == 3
        shown += zip(texts[::2], texts[1::2], strict=True)
    assert set(shown) <= retained
    assert not [pair for pair in shown for person in people if person in pair[0]]


# ---- neighbors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["fictional:tiny", "fictional"])
def test_neighbors_in_the_fictional_world(spec):
    data = load_unlearning_data(spec)
    neighbors = neighbor_facts(data)
    forgotten = {(row["attribute"], row["value"]) for row in data.forget}
    assert list(neighbors) == ["same_template", "same_value"]
    for rows in neighbors.values():
        assert 0 < len(rows) == len(set(rows["fact_id"])) <= MOST_NEIGHBORS
        assert set(rows["template"]) == {0}
    counts = [neighbors["same_template"]["attribute"][:].count(attribute) for attribute in data.forget["attribute"]]
    assert min(counts) >= max(counts) - 1 and min(counts) >= 10  # the choice is spread over all attributes
    assert {(row["attribute"], row["value"]) for row in neighbors["same_value"]} <= forgotten


def test_the_same_value_of_another_attribute_is_no_neighbor():
    def row(name, attribute, value):
        return {"question": f"{attribute} of {name}?", "answer": value, "attribute": attribute, "value": value}

    retain = [row("Bob", "city", "Rome"), row("Bob", "pet", "cat"), row("Cid", "book", "Rome"), row("Cid", "pet", "ox")]
    neighbors = neighbor_facts(data_of([row("Ann", "city", "Rome"), row("Ann", "pet", "ox")], retain))
    assert {name: rows["question"][:] for name, rows in neighbors.items()} == {
        "same_template": ["city of Bob?", "pet of Bob?", "pet of Cid?"],
        "same_value": ["city of Bob?", "pet of Cid?"],
    }


def test_the_nearest_question_shares_rare_words_and_not_names():
    retain = [
        {"question": question, "answer": "x"}
        for question in (
            "What is the job of Ann's friend Bob?",
            "Which awards has Cid won?",
            "In which city was Dan born?",
            "What is the city of Eve?",
        )
    ]
    forget = [
        {"question": question, "answer": "y"}
        for question in ("Where was Zoe born?", "Has Zoe won any awards?", "What awards did Zoe get?", "Zoe?")
    ]
    neighbors = neighbor_facts(data_of(forget, retain))
    assert {name: rows["question"][:] for name, rows in neighbors.items()} == {
        "nearest_question": ["In which city was Dan born?", "Which awards has Cid won?"]
    }


def test_no_neighbors_without_a_retain_set_or_without_questions():
    assert neighbor_facts(data_of(TOFU)) == {}
    assert neighbor_facts(data_of(TOFU, [{"text": "Bob was born in Bern."}])) == {}
    assert neighbor_facts(data_of([{"text": "Ann was born in Rome."}], RETAIN)) == {}
