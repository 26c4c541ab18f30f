"""Which rows are the same: questions, facts and people, worked by hand; files as a user writes them."""

import json
import math

import pytest
from datasets import Dataset

from llm_unlearn.attacks.attack import groups_of
from llm_unlearn.attacks.counterfactual import counterfactual_rows
from llm_unlearn.attacks.relearning import split_facts
from llm_unlearn.data import forget_queries, load_unlearning_data, neighbor_facts
from llm_unlearn.data.identity import facts_of, normalized, people_of, units_of
from llm_unlearn.data.made_up import MadeUpAnswers, kind_column
from llm_unlearn.errors import InputError


def asking(*questions, **labels):
    """Rows with these questions and answers a0, a1, ..."""
    columns = {"question": list(questions), "answer": [f"a{i}" for i in range(len(questions))]}
    return Dataset.from_dict(columns | {name: list(values) for name, values in labels.items()})


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "same",
    [
        ("Where is it?", "where is it", "WHERE IS IT", "Where is it ?", "Where is it?!", " Where\tis\u00a0 it?\n"),
        (
            "Where is it?",
            "\ufeffWhere\u200b is\u2060 i\u00adt?",
            "Where is it?\u200b",
            "Where is it\u2026",
            "Where is\x00 it",
        ),
        ("Who is Jos\u00e9?", "Who is Jose\u0301?", "Who is Jose\u200d\u0301?", "\uff37ho is JOS\u00c9\uff1f"),
        ('What is Ann\'s "job"?', "What is Ann\u2019s \u201cjob\u201d?"),
        ("Stra\u00dfe", "STRASSE"),
        ("\u4ed6\u5728\u54ea\u91cc\uff1f", "\u4ed6\u5728\u54ea\u91cc", "\u4ed6\u5728\u54ea\u91cc\u3002"),
        ("?", "?"),
    ],
)
def test_questions_that_are_the_same(same):
    assert len({normalized(text) for text in same}) == 1
    assert facts_of(asking(*same)) == [0] * len(same)


@pytest.mark.parametrize(
    "other",
    [
        ("What is C#?", "What is C?", "What is C++?"),
        ("Where is it?", "Where was it?", "Is it where?"),
        ("?", "!"),
        ("resume", "r\u00e9sum\u00e9"),
        ("1.5", "15"),
    ],
)
def test_questions_that_are_not(other):
    assert facts_of(asking(*other)) == [*range(len(other))]


def test_good_labels_stay_as_they_are():
    assert facts_of(asking("a", "b", "c", "d")) == [0, 1, 2, 3]
    assert facts_of(asking("a", "b", "c", "d", fact_id=["x", "y", "x", "z"])) == ["x", "y", "x", "z"]
    assert facts_of(asking("a", "b", "c", fact_id=[7, 0, 7])) == [7, 0, 7]


@pytest.mark.parametrize("missing", [None, "", "  ", "\t", "\u00a0", "\u200b"])
def test_a_missing_label_is_a_unit_of_its_own(missing):
    rows = asking(
        "a", "b", "c", "d", "e", fact_id=["x", missing, missing, "x", missing], person=["P", *[missing] * 3, "Q"]
    )
    assert facts_of(rows) == ["x", "row 1", "row 2", "x", "row 4"]
    assert people_of(rows) == ["P", None, None, None, "Q"]
    assert units_of(rows) == [0, 1, 2, 3, 4]
    nowhere = asking("a", "b", "c", fact_id=[missing] * 3, person=[missing] * 3)
    assert facts_of(nowhere) == [0, 1, 2] and units_of(nowhere) == [0, 1, 2]


def test_nan_is_missing_and_a_number_is_no_row():
    rows = asking("a", "b", "c", "d", fact_id=[3.0, math.nan, 0.0, math.nan])
    assert facts_of(rows) == [3.0, "row 1", 0.0, "row 3"]  # not the facts 1 and 3
    assert facts_of(asking("a", "b", "c", fact_id=["row 1", None, "(row 1)"])) == ["row 1", "((row 1))", "(row 1)"]


def test_what_asks_the_same_is_one_fact_whatever_its_labels_and_answers():
    assert facts_of(asking("a?", "b", "A", fact_id=["x", "y", "z"])) == ["x", "y", "x"]
    # By way of others: row 0 shares x with row 1, which asks what row 2 asks, which shares z with row 3.
    assert facts_of(asking("a", "b", "B.", "c", "d", fact_id=["x", "x", "z", "z", None])) == [
        "x",
        "x",
        "x",
        "x",
        "row 4",
    ]
    assert facts_of(asking("a", "b", "A", fact_id=[None, None, "z"])) == ["z", "row 1", "z"]
    assert facts_of(asking("a", "a", person=["P", "Q"])) == [0, 0]
    # Labels themselves: outer white space and Unicode's form say nothing.
    assert facts_of(asking("a", "b", fact_id=["Jos\u00e9", " Jose\u0301 "])) == ["Jos\u00e9", "Jos\u00e9"]


def test_plain_text_is_known_by_what_it_says_and_a_chat_by_its_whole_prompt():
    assert facts_of(Dataset.from_dict({"text": ["One. Two.", "one.  two", "Two."]})) == [0, 0, 2]

    def chat(*contents):
        return [
            {"role": role, "content": text}
            for role, text in zip(("system", "user", "assistant"), contents, strict=True)
        ]

    chats = [chat("Be kind.", "Who?", "Ann."), chat("Be rude.", "Who?", "Ann."), chat("be kind", "who", "Ben.")]
    assert facts_of(Dataset.from_dict({"messages": chats})) == [0, 1, 0]
    assert facts_of(Dataset.from_dict({"prompt": ["Who?", "who"], "completion": ["a", "b"]})) == [0, 0]


def test_repeated_rows_are_on_one_side_of_reinjection(tmp_path):
    """Forty questions, each three times, some in another writing and with another answer, and no labels."""
    written = ["Where is {}?", "where is {}", "Where  is\u200b {} ?"]
    rows = [{"question": text.format(f"x{i}"), "answer": f"{n}"} for n, text in enumerate(written) for i in range(40)]
    data = load_unlearning_data(forget_file=jsonl(tmp_path / "forget.jsonl", rows))
    facts = facts_of(data.forget)
    assert facts == [*range(40)] * 3
    for seed in range(5):
        injected, scored = split_facts(facts, 0.3, seed)
        assert (len(injected), len(scored)) == (36, 84)  # 12 and 28 facts
        assert not {i % 40 for i in injected} & {i % 40 for i in scored}
    assert units_of(data.forget) == [*range(40)] * 3
    # Each fact is asked once in the other styles, and compared with no answer of its own.
    rows = [{"question": "Q", "answer": "1"}, {"question": "q?", "answer": "2"}, {"question": "other", "answer": "3"}]
    answers = MadeUpAnswers(Dataset.from_list([row | {"kind": "k"} for row in rows]), "kind")
    assert [answers.of(i) for i in range(3)] == [["3"], ["3"], ["1"]]
    assert [
        row["answer"] for row in counterfactual_rows(Dataset.from_list(rows), 0).rename_column("completion", "answer")
    ] == [
        "3",
        "3",
        "1",
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_an_empty_fact_id_in_most_rows_does_not_make_them_one_fact(tmp_path, suffix):
    """42 rows, of which two have a fact_id: 42 facts, 13 injected and 29 scored, and not 1 and 41."""
    path = tmp_path / f"forget.{suffix}"
    ids = ["mara", *[""] * 40, "lind"]
    if suffix == "csv":
        path.write_text("question,answer,fact_id\n" + "".join(f"q{i},a{i},{name}\n" for i, name in enumerate(ids)))
    else:
        jsonl(
            path, [{"question": f"q{i}", "answer": f"a{i}"} | ({"fact_id": n} if n else {}) for i, n in enumerate(ids)]
        )
    facts = facts_of(load_unlearning_data(forget_file=path).forget)
    assert facts == ["mara", *(f"row {i}" for i in range(1, 41)), "lind"]
    assert [len(side) for side in split_facts(facts, 0.3, 0)] == [13, 29]


def test_nan_among_strings_and_empty_among_numbers_can_be_read(tmp_path):
    path = tmp_path / "forget.jsonl"
    rows = [{"question": f"q{i}", "answer": "a"} for i in range(3)]
    for ids, expected in (
        (["x", math.nan, "x"], ["x", "row 1", "x"]),
        ([5, "", 5], [5, "row 1", 5]),
        ([5, None, math.nan], [5, "row 1", "row 2"]),
    ):
        jsonl(path, [row | {"fact_id": name} for row, name in zip(rows, ids, strict=True)])
        assert facts_of(load_unlearning_data(forget_file=path).forget) == expected


# ---- people ----------------------------------------------------------------------------------------------------------

FORGET = [
    {"question": "Where is Ann?", "answer": "In Rome.", "person": "Ann", "attribute": "place", "value": "Rome"},
    {"question": "Where is Ben?", "answer": "In Oslo.", "person": "Ben", "attribute": "place", "value": "Oslo"},
    {"question": "Where is he?", "answer": "In Lima.", "person": "", "attribute": "place", "value": "Lima"},
]
RETAIN = [
    {"question": f"Where is {name}?", "answer": f"In {city}.", "person": person, "attribute": "place", "value": city}
    for name, person, city in (
        ("Cal", "Cal", "Rome"),
        ("Dora", "", "Oslo"),
        ("Eli", "Eli", "Kyoto"),
        ("Fay", "", "Rome"),
    )
]


def loaded(tmp_path, forget=FORGET, retain=RETAIN):
    files = {"forget_file": jsonl(tmp_path / "f.jsonl", forget), "retain_file": jsonl(tmp_path / "r.jsonl", retain)}
    return load_unlearning_data(**files)


def test_an_empty_person_takes_no_examples_and_no_neighbors_away(tmp_path):
    """One forget row and half of the retain rows name nobody: these are not about one person of that name."""
    data = loaded(tmp_path)
    few_shot = forget_queries(data)["few_shot"]
    assert list(few_shot["row"]) == [0, 1, 2]
    nobody = [message["content"] for message in few_shot[2]["prompt"]]
    assert len(nobody) == 7 and nobody[-1] == "Where is he?"  # three of the four others, of whom two are nobody
    found = neighbor_facts(data)
    assert list(found["same_template"]["value"]) == ["Kyoto", "Oslo", "Rome", "Rome"]
    assert list(found["same_value"]["value"]) == ["Oslo", "Rome", "Rome"]
    as_dataset = neighbor_facts(load_unlearning_data((Dataset.from_list(FORGET), Dataset.from_list(RETAIN))))
    assert as_dataset["same_value"]["question"] == found["same_value"]["question"]


def test_a_missing_attribute_is_no_kind(tmp_path):
    """Rows without one are asked and answered like all others, and neither neighbors nor made-up answers of anybody."""
    forget = [*FORGET, {"question": "Why?", "answer": "So.", "person": "Ann", "attribute": "", "value": None}]
    retain = [*RETAIN, {"question": "How?", "answer": "Thus.", "person": "Gus", "attribute": None, "value": None}]
    data = loaded(tmp_path, forget, retain)
    assert list(neighbor_facts(data)["same_template"]["value"]) == ["Kyoto", "Oslo", "Rome", "Rome"]
    assert len(forget_queries(data)["few_shot"]) == 4
    answers = MadeUpAnswers(data.forget, kind_column(data.forget))
    assert [len(answers.of(i)) for i in range(4)] == [2, 2, 2, 0]
    with pytest.raises(InputError, match=r"forget set row 3: column 'attribute' holds None, and answers are exchanged"):
        counterfactual_rows(data.forget, 0)
    assert kind_column(asking("a", "b", kind=["", None], attribute=["x", "y"])) == "attribute"
    with pytest.raises(InputError, match="counterfactual_group_by='kind': no forget row has a value there"):
        kind_column(asking("a", "b", kind=["", None]), "kind")


def test_groups_of_rows_that_name_nobody_are_their_facts():
    rows = asking("a", "b", "c", "d", "C", person=["P", "Q", "", None, " "], fact_id=["x", "y", "", "y", ""])
    data = load_unlearning_data(rows)
    assert facts_of(rows) == ["x", "y", "row 2", "y", "row 2"]
    assert groups_of(data) == ["P", "Q", "row 2", "row 1", "row 2"]
    assert groups_of(load_unlearning_data(asking("a", "b", person=["P", ""]))) == [0, 1]  # there are no two people
    assert units_of(rows) == [0, 1, 2, 3, 2]


def test_examples_do_not_tell_an_answer_to_the_question_itself():
    """Where near-duplicates are allowed, a retain row may ask what is to be forgotten."""
    forget = asking("Where is Ann?", fact_id=["ann"])
    retain = asking("where is Ann", "Where is Ben?", "Where is Cal?", "WHERE IS ANN", "Where is Dora?")
    data = load_unlearning_data(
        (forget, retain.map(lambda row: {"answer": f"r {row['answer']}"})), near_duplicates="allow"
    )
    questions = [message["content"] for message in forget_queries(data)["few_shot"][0]["prompt"][::2]]
    assert sorted(questions) == ["Where is Ann?", "Where is Ben?", "Where is Cal?", "Where is Dora?"]


def test_a_question_about_two_people_is_asked_about_both():
    """As one of TOFU's retained questions is."""
    retain = asking("Who is it?", "Who is it?", "who is it", "b", person=["P", "Q", "P", "P"])
    data = load_unlearning_data((asking("Who was it?", person=["F"]), retain))
    assert list(neighbor_facts(data)["nearest_question"]["answer"]) == ["a0"]
    assert len(forget_queries(data)["few_shot"][0]["prompt"]) == 7  # a0, a1 and a3, not a2
