"""Other answers to the forget questions."""

import pytest
from builders import qa_rows
from datasets import Dataset

from llm_unlearn import InputError
from llm_unlearn.data.alternates import REFUSALS, other_answers, with_other_answers


def test_refusals_are_drawn_by_the_seed_for_each_row():
    rows = qa_rows(40)
    drawn = other_answers(rows, None, seed=3)
    assert drawn == other_answers(rows, None, seed=3) and drawn[:20] == other_answers(qa_rows(20), None, seed=3)
    assert drawn != other_answers(rows, None, seed=4) and len(set(drawn)) > 5 and set(drawn) <= set(REFUSALS)


def test_a_column_says_what_to_answer():
    rows = qa_rows(2).add_column("instead", ["Nowhere.", "No idea."])
    assert other_answers(rows, "instead", seed=0) == ["Nowhere.", "No idea."]
    with pytest.raises(InputError, match="alternate_column='other' is no column of the forget rows: choose from quest"):
        other_answers(rows, "other", seed=0)
    for empty in ("  ", None):
        rows = qa_rows(2).add_column("instead", ["Nowhere.", empty])
        with pytest.raises(InputError, match="alternate_column='instead': row 1 of the forget rows has no text there"):
            other_answers(rows, "instead", seed=0)


def test_the_question_stays_and_the_true_answer_is_refused():
    rows = qa_rows(1)
    (row,) = with_other_answers(rows, ["Nowhere."])
    assert row["prompt"][-1]["content"] == rows[0]["question"] and row["completion"] == "Nowhere."
    with pytest.raises(InputError, match="that of forget row 0 is the true one"):
        with_other_answers(rows, [f" {rows[0]['answer'].upper()} "])
    with pytest.raises(InputError, match="rows with a `text` ask nothing"):
        with_other_answers(Dataset.from_list([{"text": "Ann lives in Paris."}]), ["Nowhere."])
