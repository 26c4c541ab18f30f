"""Whether an answer says the value that is asked for."""

import pytest

from llm_unlearn.data.value_said import said_by_row, value_said


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        ("Tededen Movevick was born in the city of Jorvendale.", "Jorvendale", True),  # whoever it was
        ("the city of JORVENDALE", "Jorvendale", True),
        ("the city of Jorvendales", "Jorvendale", False),
        ("She plays the viola.", "a viola", False),
        ("a work of  folk\ntales.", "folk tales", True),
        ("won the \u201cIron Laurel\u201d", "Iron Laurel", True),
        ("written in C#.", "C#", True),
        ("born on 23 July 1965", "3 July 1965", False),
        ("Jose\u0301 was here", "Jos\u00e9", True),
        ("", "Graz", False),
        ("Graz", "", False),
        ("他住在北京市。", "北京", True),
        ("他住在上海。", "北京", False),
    ],
)
def test_whole_words_whatever_their_form(text, value, said):
    assert value_said(text, value) is said


def test_rows_whose_own_answer_does_not_say_the_value_do_not_count():
    """Nor those without one: nobody can be asked for what the true answer does not hold."""
    answers = ["The home is in Graz.", "A flat.", "The home is in Bern.", "The home is in Rome."]
    texts = ["In Graz, I think.", "In Graz.", "In Graz.", "Rome"]
    found = said_by_row(texts, answers, ["Graz", "Graz", "Bern", None])
    assert found == {"0": {"score": 1.0}, "2": {"score": 0.0}}


def test_whoever_always_says_one_value_says_the_true_and_made_up_ones_equally_often():
    """Graz is true of two facts of three: 2/3 of the answers say theirs, and of the others' 1/2, 1/2 and 1."""
    values = ["Graz", "Graz", "Bern"]
    made_up = [["Graz", "Bern"], ["Graz", "Bern"], ["Graz", "Graz"]]
    found = said_by_row(["In Graz."] * 3, values, values, made_up)
    assert found == {
        "0": {"score": 1.0, "made_up": 0.5},
        "1": {"score": 1.0, "made_up": 0.5},
        "2": {"score": 0.0, "made_up": 1.0},
    }
    assert said_by_row(["Rome"], ["Graz"], ["Graz"], [[]]) == {"0": {"score": 0.0}}
