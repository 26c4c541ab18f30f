"""Other answers to the forget questions."""

import pytest
from builders import qa_rows
from datasets import Dataset

from llm_unlearn import InputError
from llm_unlearn.data.alternates import REFUSALS, other_answers, own_refusals, with_other_answers


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


def person_rows(*facts) -> Dataset:
    names = ("person", "attribute", "answer")
    rows = [dict(zip(names, fact, strict=True)) for fact in facts]
    return Dataset.from_list([row | {"question": f"{row['attribute']} of {row['person']}?"} for row in rows])


def test_a_guess_is_anothers_answer_of_the_same_kind_of_a_retained_one_where_one_person_is_forgotten_alone():
    rows = person_rows(("Ann", "home", "Ann lives in Oslo."), ("Ann", "pet", "a cat"))
    retain = person_rows(("Ben", "home", "Ben lives in Rome."), ("Cal", "pet", "a dog"), ("Cal", "job", "a baker"))
    assert other_answers(rows, None, 0, "guess", retain) == ["Ann lives in Rome.", "a dog"]
    two = person_rows(("Ann", "home", "in Oslo"), ("Eli", "home", "in Lima"))
    assert (
        other_answers(two, None, 0, "guess", retain) == ["in Lima", "in Oslo"] == other_answers(two, None, 0, "guess")
    )
    words = r"no other row has an answer of the kind of forget row 1's \(attribute .*pet.*\); name a column of wrong"
    with pytest.raises(InputError, match=words):
        other_answers(rows, None, 0, "guess", retain.select([0]))
    with pytest.raises(InputError, match="forget row 0's"):
        other_answers(rows, None, 0, "guess")


def test_the_sentences_of_a_file_are_refusals_of_ones_own(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text('That is private.\n\n"Ask the press."\n', encoding="utf-8")
    assert own_refusals(str(path)) == ("That is private.", "Ask the press.")
    assert [own_refusals(source) for source in ("refusal", "guess", "sampled")] == [(), (), ()]
    with pytest.raises(
        InputError, match=r"replace_with='none.txt' is no file; give one, or choose from refusal, guess"
    ):
        own_refusals("none.txt")
    with pytest.raises(InputError, match=r"refusals='none.txt' is no file; give one$"):
        own_refusals("none.txt", "refusals")


def test_of_several_texts_in_a_column_one_is_drawn():
    lists = [["Nowhere.", "No idea."]] * 20
    rows = qa_rows(20).add_column("instead", lists)
    drawn = other_answers(rows, "instead", seed=1)
    assert set(drawn) == {"Nowhere.", "No idea."} and drawn == other_answers(
        rows, "instead", seed=1, replace_with="guess"
    )
    for empty in ([], ["Nowhere.", " "]):
        rows = qa_rows(2).add_column("instead", [["Nowhere."], empty])
        with pytest.raises(InputError, match="alternate_column='instead': row 1 of the forget rows has no text there"):
            other_answers(rows, "instead", seed=0)


def test_a_guess_is_the_answer_of_another_row_of_the_same_kind():
    rows = qa_rows(36)
    kinds = [fact.partition("/")[2] for fact in rows["fact_id"]]
    drawn = other_answers(rows.add_column("attribute", kinds), None, 0, "guess")
    answers = {kind: {row["answer"] for row, own in zip(rows, kinds, strict=True) if own == kind} for kind in kinds}
    for row, kind, text in zip(rows, kinds, drawn, strict=True):
        assert text in answers[kind] and text != row["answer"]
    assert len(set(drawn)) > 10


def test_guesses_need_a_kind_and_another_row_of_it():
    with pytest.raises(
        InputError, match="replace_with='guess' takes answers of other rows of the same kind, and no col"
    ):
        other_answers(qa_rows(3), None, 0, "guess")
    rows = qa_rows(3).add_column("kind", ["place", "food", "place"])
    with pytest.raises(
        InputError, match="replace_with='guess': no other row has an answer of the kind of forget row 1's"
    ):
        other_answers(rows, None, 0, "guess")


def test_texts_of_a_file(tmp_path):
    file = tmp_path / "answers.txt"
    file.write_text('No idea.\n\n"Not \\u00e4 clue."\n{"text": "Who knows?", "number": 3}\n')
    drawn = other_answers(qa_rows(30), None, 0, str(file))
    assert set(drawn) == {"No idea.", "Not ä clue.", "Who knows?"}
    assert drawn[:5] == other_answers(qa_rows(5), None, 0, str(file))
    for encoding in ("utf-8-sig", "utf-16"):  # as spreadsheets write it
        file.write_text('"Not \u00e4 clue."\nNot \u00e4 clue.\n', encoding=encoding)
        assert set(other_answers(qa_rows(30), None, 0, str(file))) == {"Not \u00e4 clue."}
    file.write_bytes("No id\u00e9a.".encode("latin-1"))
    with pytest.raises(InputError, match="line 1 is not UTF-8 text; save the file as UTF-8"):
        other_answers(qa_rows(3), None, 0, str(file))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('"No idea', r"answers.txt, line 1: no JSON \(Unterminated string"),
        ('No idea.\n{"a": "b", "c": "d"}', r"answers.txt, line 2: give one text, not '\{"),
        ('{"a": 1}', r"answers.txt, line 1: give one text, not '\{"),
        (" \n\n", r"answers.txt' has no text in it; give one in each line"),
        (None, r"answers.txt' is no file; give one, or choose from refusal, guess, sampled"),
    ],
)
def test_files_that_hold_no_texts(content, words, tmp_path):
    file = tmp_path / "answers.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=words):
        other_answers(qa_rows(2), None, 0, str(file))
