"""Made-up answers: of the same kind, never a true one, the same pairs from both sides."""

import pytest
from datasets import Dataset

from llm_unlearn.data.made_up import (
    MADE_UP,
    MADE_UP_QUESTION,
    MOST_MADE_UP,
    MadeUpAnswers,
    kind_column,
    with_made_up_answers,
)
from llm_unlearn.errors import InputError


def rows(*facts):
    """(fact, kind, answer) -> rows."""
    return Dataset.from_list(
        [
            {"question": f"{kind} of {fact} ({number})?", "answer": answer, "fact_id": fact, "kind": kind}
            for number, (fact, kind, answer) in enumerate(facts)
        ]
    )


CITIES = rows(*((f"f{number}", "city", city) for number, city in enumerate("ABCDEFGHIJKL")))


def test_which_column_says_what_is_of_a_kind():
    found = Dataset.from_dict({"question": ["?"], "answer": ["!"], "attribute": ["city"]})
    assert kind_column(found) == "attribute" and kind_column(found.remove_columns("attribute")) is None
    assert kind_column(found.add_column("kind", ["town"])) == "kind"
    assert kind_column(found.add_column("kind", ["town"]), "answer") == "answer"
    with pytest.raises(InputError, match="counterfactual_group_by='color' is no column of the forget rows; choose one"):
        kind_column(found, "color")


def test_answers_are_of_the_same_kind_and_never_true_of_the_fact():
    given = rows(
        ("a", "city", "Rome"),
        ("b", "city", "Oslo"),
        ("c", "city", "Rome"),
        ("d", "food", "soup"),
        ("e", "city", "Lima"),
        ("f", "food", "rice"),
    )
    answers = MadeUpAnswers(given, "kind")
    found = [sorted(answers.of(row)) for row in range(6)]
    assert found == [
        ["Lima", "Oslo"],
        ["Lima", "Rome", "Rome"],
        ["Lima", "Oslo"],
        ["rice"],
        ["Oslo", "Rome", "Rome"],
        ["soup"],
    ]


def test_wordings_stay_with_wordings_and_a_fact_is_compared_with_no_wording_of_its_own():
    given = rows(
        *((fact, "city", f"{prefix}{city}") for fact, city in (("a", "Rome"), ("b", "Oslo")) for prefix in ("", "in "))
    )
    answers = MadeUpAnswers(given, "kind")
    assert [answers.of(row) for row in range(4)] == [["Oslo"], ["in Oslo"], ["Rome"], ["in Rome"]]


def test_a_fact_of_which_nothing_else_is_of_its_kind_has_none():
    given = rows(("a", "city", "Rome"), ("b", "food", "soup"), ("c", "food", "soup"))
    assert with_made_up_answers(given, "kind")[MADE_UP][:] == [[], [], []]


def test_the_beginning_that_is_given_is_shared_and_left_out():
    begun = [("in", " Rome"), ("in", " Oslo"), ("near", " Lima"), ("in the", " north"), ("in", " Bonn")]
    given = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"Where is {number}?"}, {"role": "assistant", "content": start}],
                "completion": rest,
                "kind": "city",
            }
            for number, (start, rest) in enumerate(begun)
        ]
    )
    found = [sorted(row) for row in with_made_up_answers(given, "kind")[MADE_UP]]
    assert found == [[" Bonn", " Oslo"], [" Bonn", " Rome"], [], [], [" Oslo", " Rome"]]


@pytest.mark.parametrize("most", [2, 4, MOST_MADE_UP])
def test_one_fact_is_compared_with_another_exactly_if_that_is_with_it(most):
    answers = MadeUpAnswers(CITIES, "kind")
    pairs = {(CITIES[row]["answer"], other) for row in range(12) for other in answers.of(row, most=most)}
    assert len(pairs) == 12 * most and pairs == {(other, one) for one, other in pairs}


def test_only_answers_among_the_given_rows_are_taken_and_the_same_whatever_other_kinds_there_are():
    answers, among = MadeUpAnswers(CITIES, "kind"), {0, 2, 3, 5, 7, 8, 9, 11}
    found = {row: answers.of(row, among) for row in sorted(among)}
    allowed = {CITIES[row]["answer"] for row in among}
    assert all(set(made_up) <= allowed and len(made_up) == MOST_MADE_UP for made_up in found.values())
    pairs = {(CITIES[row]["answer"], other) for row, made_up in found.items() for other in made_up}
    assert pairs == {(other, one) for one, other in pairs}
    more = MadeUpAnswers(Dataset.from_list([*CITIES, *rows(("x", "food", "soup"), ("y", "food", "rice"))]), "kind")
    assert (
        found == {row: more.of(row, among) for row in found} == {row: more.of(row, {*among, 12, 13}) for row in found}
    )
    assert answers.of(0, {0}) == []


def test_multiple_choice_gets_a_question_with_other_options():
    given = Dataset.from_list(
        [
            {
                "question": f"Where is {name}? Answer with one of the options:\nRome\nOslo\nLima",
                "answer": answer,
                "options": ["Rome", "Oslo", "Lima"],
                "kind": "city",
            }
            for name, answer in (("Ann", "Rome"), ("Ben", "Oslo"), ("Cal", "Bonn"), ("Dan", "Bonn"))
        ]
    )
    found = with_made_up_answers(given, "kind")
    for row in found:
        asked, *options = row[MADE_UP_QUESTION].split("\n")
        assert asked == row["question"].split("\n")[0]
        assert sorted(options) == sorted({row["answer"], *row[MADE_UP]}) and row["answer"] not in row[MADE_UP]
    assert max(len(row[MADE_UP]) for row in found) == 2  # as many as there were wrong options


def test_options_that_are_not_in_the_question_are_a_column_of_the_users_own():
    rows = [
        {"question": f"Who wrote book {i}?", "answer": f"Author {i}", "kind": "author", "options": ["Author 0", "A"]}
        for i in range(4)
    ]
    found = with_made_up_answers(Dataset.from_list(rows), "kind")
    assert MADE_UP_QUESTION not in found.column_names and all(found[MADE_UP])


def test_without_a_column_that_says_what_is_of_a_kind_rows_stay_as_they_are():
    assert with_made_up_answers(CITIES, None) is CITIES and with_made_up_answers(CITIES, "attribute") is CITIES


def test_a_name_is_exchanged_where_it_is_a_word_and_the_question_has_it():
    """Ann's town is not Benapolis; where the person is the answer, nothing is exchanged."""
    asked = [("Ann", "Annapolis"), ("Ben", "Oslo"), ("Cy", "Lima")]
    given = [
        {"question": f"Where does {name} live?", "answer": f"{name} lives in {town}.", "person": name, "kind": "town"}
        for name, town in asked
    ]
    answers = MadeUpAnswers(Dataset.from_list(given), "kind")
    assert sorted(answers.of(1)) == ["Ben lives in Annapolis.", "Ben lives in Lima."]
    assert sorted(answers.of(0)) == ["Ann lives in Lima.", "Ann lives in Oslo."]
    turned = [
        {"question": f"Who lives in {town}?", "answer": f"{name}.", "person": name, "kind": "town"}
        for name, town in asked
    ]
    assert sorted(MadeUpAnswers(Dataset.from_list(turned), "kind").of(0)) == ["Ben.", "Cy."]
