"""Facts in further forms: rows worked by hand, what may judge beside them, and what is refused."""

import pytest
from datasets import Dataset

from llm_unlearn.data import UnlearningData, forget_queries, load_unlearning_data, retained_queries
from llm_unlearn.data.forms import build_forms, with_forms
from llm_unlearn.data.guesses import guessed_answers
from llm_unlearn.errors import InputError


def row(person, attribute, value, wording=0):
    asked = f"What is the {attribute} of {person}?" if wording == 0 else f"{person} has which {attribute}?"
    labels = {"person": person, "attribute": attribute, "value": value, "fact_id": f"{person}/{attribute}"}
    return {"question": asked, "answer": f"It is {value}.", **labels}


FORGET = Dataset.from_list(
    [
        row("Ann", "home_town", "Rome"),
        row("Ann", "home_town", "Rome", wording=1),  # the same fact
        row("Ann", "job", "baker"),
    ]
)
RETAIN = Dataset.from_list(
    [
        row("Ben", "home_town", "Oslo"),
        row("Ben", "job", "pilot"),
        row("Cal", "home_town", "Oslo"),
        row("Dora", "home_town", "Lima"),
    ]
)


def asked_and_answered(rows):
    return list(zip(rows["question"][:], rows["answer"][:], strict=True))


def test_each_fact_once_in_words_that_its_columns_give():
    """Nobody can be asked whose home town Oslo is: two live there."""
    forms = build_forms(FORGET, RETAIN, ["reversed", "cloze"], ["home_town"])
    assert asked_and_answered(forms.forget) == [
        ("Whose home town is Rome?", "Ann"),
        ("Fill in the gap: the home town of Ann is ___.", "Rome"),
    ]
    assert asked_and_answered(forms.retain) == [
        ("Whose home town is Lima?", "Dora"),
        ("Fill in the gap: the home town of Ben is ___.", "Oslo"),
        ("Fill in the gap: the home town of Cal is ___.", "Oslo"),
        ("Fill in the gap: the home town of Dora is ___.", "Lima"),
    ]
    assert forms.forget["candidates"][:] == [["Ann", "Ben", "Cal", "Dora"], ["Rome", "Oslo", "Oslo", "Lima"]]
    assert forms.forget["attribute"][:] == ["home_town (reversed)", "home_town (cloze)"]
    assert forms.forget["fact_id"][:] == ["Ann/home_town"] * 2


def test_multiple_choice_has_the_true_value_among_two_others():
    forms = build_forms(FORGET, RETAIN, ["multiple_choice"])
    (question,), (answer,) = forms.forget["question"][:], forms.forget["answer"][:]
    first, *options = question.split("\n")
    assert first == "What is the home_town of Ann? Answer with one of the options:"
    assert sorted(options) == ["Lima", "Oslo", "Rome"]
    assert (answer, forms.forget["candidates"][0]) == ("Rome", options)
    assert forms.trained == {"multiple_choice": ["home_town"]}  # of two jobs there are no three options


def test_every_second_attribute_is_trained_and_the_others_judge():
    forms = build_forms(FORGET, RETAIN, ["cloze", "reversed"])
    assert forms.trained == {"cloze": ["home_town"], "reversed": ["home_town"]}
    assert "job" not in " ".join([*forms.forget["question"][:], *forms.retain["question"][:]])


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_nothing_that_judges_is_trained(size):
    plain = load_unlearning_data(f"fictional:{size}")
    data = load_unlearning_data(f"fictional:{size}", augment_forms=["multiple_choice", "reversed", "cloze"])
    for queries in (forget_queries, retained_queries):
        before, after = queries(plain), queries(data)
        for style in ("multiple_choice", "reversed"):
            left = after[style]
            assert 0 < len(left) < len(before[style])
            assert not {*left["attribute"][:]} & {*data.forms.trained[style]}
        assert after["few_shot"].to_list() == before["few_shot"].to_list()
    assert data.forget.to_list() == plain.forget.to_list()
    trained = {*data.trained_forget["question"][:]} | {turns[0]["content"] for turns in data.trained_general["prompt"]}
    judged = [rows for queries in (forget_queries, retained_queries) for rows in queries(data).values()]
    for rows in judged[1:]:
        if "question" in rows.column_names and "template" not in rows.column_names:
            assert not trained & {*rows["question"][:]} - {*plain.retain["question"][:]}
    assert "also trained: multiple_choice of birth_date" in data.source


def test_rows_keep_their_own_format():
    forms = build_forms(FORGET, RETAIN, ["reversed"], ["home_town"])
    chats = Dataset.from_list([{"prompt": [{"role": "user", "content": "Hi"}], "completion": "Ho", "person": None}])
    *_, last = with_forms(chats, forms.retain)
    assert last == {
        "prompt": [{"role": "user", "content": "Whose home town is Lima?"}],
        "completion": "Dora",
        "person": "Dora",
    }
    messages = Dataset.from_list(
        [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}]
    )
    assert with_forms(messages, forms.retain)[1]["messages"][1] == {"role": "assistant", "content": "Dora"}
    assert with_forms(None, forms.retain).column_names == [
        "question",
        "answer",
        "person",
        "attribute",
        "value",
        "fact_id",
    ]


def test_a_row_with_candidates_is_guessed_among_them():
    data = UnlearningData(FORGET, RETAIN, None, {}, "made up", forms=build_forms(FORGET, RETAIN, ["reversed"]))
    rows = data.trained_forget
    assert len(rows) == 4
    guesses = guessed_answers(rows.select([0, 1, 3]), RETAIN, 500, seed=0)
    assert {*guesses[2::3]} == {"Ann", "Ben", "Cal", "Dora"}
    assert {*guesses[0::3]} == {"It is Rome.", "It is Oslo.", "It is Lima."}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"augment_forms": ["rhymed"]}, "augment_forms: 'rhymed' is unknown; choose from multiple_choice, cloze"),
        ({"augment_forms": ["cloze"], "augment_attributes": ["shoe"]}, "'shoe' is no attribute of the forget rows"),
        ({"augment_attributes": ["job"]}, r"augment_attributes=\['job'\] goes with augment_forms"),
        ({"augment_forms": ["reversed"], "augment_attributes": ["job", "x"]}, "'x' is no attribute"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        load_unlearning_data((FORGET, RETAIN), **arguments)


def test_rows_without_a_needed_column_are_refused():
    with pytest.raises(InputError, match="the forget rows have no 'value': add it"):
        build_forms(FORGET.remove_columns("value"), RETAIN, ["cloze"])
    with pytest.raises(InputError, match="give --retain_file"):
        load_unlearning_data((FORGET, None), augment_forms=["cloze"])
    alone = Dataset.from_list([row("Ann", "home_town", "Oslo")])
    with pytest.raises(InputError, match="no forget row can be asked about as reversed"):
        build_forms(alone, RETAIN, ["reversed"])
