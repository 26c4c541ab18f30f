"""What general rows ask of others, asked of the forgotten: rows worked by hand, and what is refused."""

import pytest
from datasets import Dataset

from llm_unlearn.data import forget_queries, load_unlearning_data
from llm_unlearn.data.forms import build_forms
from llm_unlearn.errors import InputError
from llm_unlearn.methods import load_method
from llm_unlearn.runs.recipe import Recipe


def row(person, attribute, value):
    labels = {"person": person, "attribute": attribute, "value": value, "fact_id": f"{person}/{attribute}"}
    return {"question": f"What is the {attribute} of {person}?", "answer": f"It is {value}.", **labels}


FORGET = Dataset.from_list([row("Ann", "town", "Rome"), row("Ann", "book", "Red Sea"), row("Eve", "book", "Ice")])
RETAIN = Dataset.from_list(
    [row("Ben", "town", "Oslo"), row("Ben", "book", "Blue"), row("Cal", "town", "Oslo"), row("Cal", "book", "Sun")]
)


def general(*pairs):
    return Dataset.from_list([{"question": question, "answer": answer} for question, answer in pairs])


def found(rows, **keywords):
    forms = build_forms(FORGET, RETAIN, ["transposed"], None, rows, **keywords)
    assert (len(forms.retain), forms.trained) == (0, {})
    return [(row["question"], row["answer"]) for row in forms.forget.to_list()]


def test_what_is_asked_about_one_is_asked_about_each_of_the_forgotten():
    """Cal's is in the same words as Ben's; the options are below, Bengal is another word, and two at once are left."""
    rows = general(
        ("Is Ben tall?", "Ben is."),
        ("Is Cal tall?", "No."),
        ("Which is Cal's? Choose:\nOslo\nLima", "Oslo"),
        ("Which is Ben's? Choose:\nLima\nOslo", "Oslo"),
        ("Is Ben older than Cal?", "Yes."),
        ("Where is Bengal?", "In the east."),
    )
    assert found(rows) == [
        ("Is Ann tall?", "Ann is."),
        ("Is Eve tall?", "Eve is."),
        ("Which is Ann's? Choose:\nOslo\nLima", "Oslo"),
        ("Which is Eve's? Choose:\nOslo\nLima", "Oslo"),
    ]


def test_who_is_the_answer_is_asked_for_by_what_that_one_alone_has():
    """Oslo is of two, so that who lives there is asked of nobody; Ann's town has no wording of its own."""
    rows = general(("Who wrote Blue?", "By Ben."), ("Who wrote Sun?", "By Cal."), ("Who is from Oslo?", "Ben"))
    assert found(rows) == [("Who wrote Red Sea?", "By Ann."), ("Who wrote Ice?", "By Eve.")]
    forms = build_forms(FORGET, RETAIN, ["transposed"], None, rows)
    first = forms.forget[0]
    assert (first["person"], first["value"], first["fact_id"]) == ("Ann", "Red Sea", "Ann/book")
    assert (
        first["candidates"] == ["By Ann.", "By Eve.", "By Ben.", "By Cal."]
        and first["attribute"] == "Who wrote ...? (transposed)"
    )
    named = build_forms(FORGET, RETAIN, ["transposed"], None, general(("Who wrote Blue?", "Ben")))
    assert named.forget[0]["candidates"] == ["Ann", "Eve", "Ben", "Cal"]


def test_the_answers_of_a_wording_are_its_candidates():
    rows = general(("Is Ben tall?", "Ben is."), ("Is Cal tall?", "No."))
    forms = build_forms(FORGET, RETAIN, ["transposed"], None, rows)
    assert forms.forget["candidates"][:] == [["Ann is.", "No."], ["Eve is.", "No."]]


def test_no_question_that_judges_and_none_of_the_forget_rows():
    rows = general(("Is Ben tall?", "No."), ("What is the town of Ben?", "Oslo"), ("Is Ben old?", "No."))
    judged = general(("is ann TALL", "Yes."))
    assert found(rows, judged=[judged]) == [
        ("Is Eve tall?", "No."),
        ("What is the town of Eve?", "Oslo"),  # which Eve's rows do not ask
        ("Is Ann old?", "No."),
        ("Is Eve old?", "No."),
    ]
    with_held_out = FORGET.add_column("paraphrased_question", ["Is Ann old?", None, ""])
    forms = build_forms(with_held_out, RETAIN, ["transposed"], None, rows, judged=[judged])
    assert "Is Ann old?" not in forms.forget["question"][:]


def test_conversations_and_plain_text_ask_nothing_that_could_be_transposed():
    turns = [{"role": "user", "content": "Is Ben tall?"}, {"role": "assistant", "content": "No."}]
    several = Dataset.from_list([{"prompt": [*turns, turns[0]], "completion": "No."}])
    for rows in (several, Dataset.from_list([{"text": "Ben is tall."}])):
        with pytest.raises(InputError, match="no general row asks about one retained person, or for one"):
            build_forms(FORGET, RETAIN, ["transposed"], None, rows)


def test_what_is_missing_is_said():
    with pytest.raises(InputError, match="transposed takes its questions from general rows; give --general_data"):
        build_forms(FORGET, RETAIN, ["transposed"])
    with pytest.raises(InputError, match="augment_attributes chooses among forms by template, and transposed takes"):
        build_forms(FORGET, RETAIN, ["transposed"], ["town"], general(("Is Ben tall?", "No.")))


@pytest.mark.parametrize("size", ["tiny", "small", "smollm2"])
def test_nothing_that_judges_is_trained(size):
    plain = load_unlearning_data(f"fictional:{size}")
    data = load_unlearning_data(f"fictional:{size}", augment_forms=["transposed"])
    assert data.trained_general.to_list() == plain.general.to_list()
    asked, queries = forget_queries(plain), forget_queries(data)
    assert {name: rows.to_list() for name, rows in queries.items()} == {n: rows.to_list() for n, rows in asked.items()}
    own = len(data.forget)
    more = data.trained_forget.select(range(own, len(data.trained_forget)))
    assert len(more) > 0 and {*more["person"][:]} <= {*data.forget["person"][:]}
    judged = {question for rows in queries.values() if "question" in rows.column_names for question in rows["question"]}
    judged |= {*plain.forget["paraphrased_question"][:]}
    trained = {row["question"] or row["prompt"][0]["content"] for row in more.to_list()}
    assert not trained & judged
    assert "also trained: what general rows ask of others" in data.source


def test_methods_that_train_against_the_answers_refuse_them(tmp_path):
    arguments = ["--data=fictional:tiny", "--augment_forms=transposed", f"--output_dir={tmp_path / 'run'}", "--dry_run"]
    with pytest.raises(InputError, match="answers are other people's, and npo would train against those: take it with"):
        Recipe.from_command_line(load_method("npo"), arguments)
