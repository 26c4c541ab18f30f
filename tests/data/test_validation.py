"""Checks over whole datasets: which dataset, which row, which column, and what to do."""

import pytest
from datasets import Dataset, DatasetDict

from llm_unlearn.data import validate_forget_retain, validate_rows
from llm_unlearn.data.validation import validate_trained
from llm_unlearn.errors import InputError


def rows(*pairs):
    return Dataset.from_list([{"question": question, "answer": answer} for question, answer in pairs])


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Dataset.from_list([]), "forget set is empty (no rows); check the file, the split's name and any filter"),
        ([], "forget set is empty"),
        (DatasetDict({"train": rows(("a", "b"))}), "forget set is a DatasetDict; pass a datasets.Dataset"),
        (None, "forget set is a NoneType; pass a datasets.Dataset"),
        (Dataset.from_list([{"query": "a"}]), "forget set: columns ['query'] fit no row format"),
        (rows(("a", "b"), ("c", " ")), "forget set row 1: column 'answer' is blank (' ')"),
        (rows(("a", "b"), (None, "d")), "forget set row 1: column 'question' holds None (NoneType)"),
        ([{"question": "a", "answer": "b"}, {"question": "c"}], "forget set row 1: column 'answer' holds None"),
        (Dataset.from_list([{"messages": [{"role": "user", "content": "x"}]}]), "forget set row 0: column 'messages'"),
    ],
)
def test_validate_rows_errors(dataset, message):
    with pytest.raises(InputError) as caught:
        validate_rows(dataset, "forget set")
    assert message in str(caught.value)


def test_good_rows_and_duplicates_inside_a_set_pass():
    validate_rows(rows(("a", "b"), ("a", "b")), "forget set")
    validate_rows([{"text": "x"}], "forget set")


def test_rows_in_both_sets_are_counted_and_located():
    forget = rows(("a", "1"), ("b", "2"), ("c", "3"))
    retain = rows(("x", "9"), (" c ", "3\n"), ("a", "1"), ("b", "other answer"))
    with pytest.raises(InputError) as caught:
        validate_forget_retain(forget, retain)
    assert str(caught.value) == (
        "rows of the forget set that are in the retain set too: 2 (forget rows 0, 2; retain rows 2, 1); "
        "remove them from one of the two"
    )


def test_rows_in_both_sets_are_found_across_row_formats():
    retain = Dataset.from_list([{"prompt": "a", "completion": "1"}])
    with pytest.raises(InputError, match="in the retain set too: 1"):
        validate_forget_retain(rows(("a", "1")), retain)


def test_only_the_first_five_of_many_are_named():
    same = rows(*((str(i), "x") for i in range(7)))
    with pytest.raises(
        InputError, match=r"too: 7 \(forget rows 0, 1, 2, 3, 4, \.\.\.; retain rows 0, 1, 2, 3, 4, \.\.\.\)"
    ):
        validate_forget_retain(same, same)


def test_disjoint_sets_and_no_retain_set_pass():
    validate_forget_retain(rows(("a", "1"), ("a", "1")), rows(("b", "1"), ("c", "2")))
    validate_forget_retain(rows(("a", "1")), None)


LONG = "where is the house of " + "x" * 100


@pytest.mark.parametrize(
    ("forget", "retain", "message"),
    [
        (
            rows(("a", "1"), ("Where is it?", "2")),
            rows(("b", "1"), ("c", "2"), ("where is\u200b  it", "other")),
            "forget set row 1 ('Where is it?') asks the same as retain set row 2 ('where is\\u200b it'); such rows: "
            "1; remove one of the two, or keep both with --near_duplicates allow (near_duplicates='allow')",
        ),
        (
            rows(("Who is Jos\u00e9?", "1"), ("b", "2")),
            Dataset.from_list(
                [{"prompt": "who is jose\u0301", "completion": "3"}, {"prompt": "B!", "completion": "4"}]
            ),
            "asks the same as retain set row 0 ('who is jose\u0301'); such rows: 2; remove",
        ),
        (
            Dataset.from_list([{"text": LONG}]),
            Dataset.from_list([{"text": "y"}, {"text": LONG.upper()}]),
            f"forget set row 0 ('{LONG[:79]}\u2026') asks the same as retain set row 1 ('{LONG.upper()[:79]}\u2026')",
        ),
    ],
)
def test_what_is_asked_in_both_sets_is_named_unless_it_is_allowed(forget, retain, message):
    with pytest.raises(InputError) as caught:
        validate_forget_retain(forget, retain)
    assert message in str(caught.value)
    with pytest.raises(InputError) as caught:
        validate_trained(forget, None, retain, "none")
    assert message.replace("retain set", "general set") in str(caught.value)
    validate_forget_retain(forget, retain, near_duplicates="allow")
    validate_trained(forget, retain, None, "nll", near_duplicates="allow")


def test_the_same_row_is_never_allowed_in_both_sets():
    with pytest.raises(InputError, match="rows of the forget set that are in the retain set too: 1"):
        validate_forget_retain(rows(("a", "1")), rows(("a", "1 ")), near_duplicates="allow")
    with pytest.raises(InputError, match="near_duplicates='ignore': choose one of refuse, allow"):
        validate_forget_retain(rows(("a", "1")), rows(("b", "1")), near_duplicates="ignore")
