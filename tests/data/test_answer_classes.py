"""Classes of answers: the token that decides, and what is refused."""

import pytest
from builders import tiny_tokenizer
from datasets import Dataset

from llm_unlearn import InputError
from llm_unlearn.data import encode_dataset
from llm_unlearn.data.answer_classes import NO_CLASS, answer_classes

TOKENIZER = tiny_tokenizer()  # one token for each word
PARIS, ROME, CAT, DOG = (TOKENIZER.convert_tokens_to_ids(word) for word in ("Paris", "Rome", "cat", "dog"))


def rows(*answers):
    """Of (name, answer, kind, value) each."""
    return Dataset.from_list(
        [{"question": f"Where does {n} live", "answer": a, "kind": k, "value": v} for n, a, k, v in answers]
    )


HELD = (("Ben", "Rome"), ("Cal", "Rome"), ("Dora", "Paris"), ("Eli", "Paris"))
HOMES = rows(*((name, f"in {city}", "home", city) for name, city in HELD))


def classes(forget, retain, max_length=None):
    datasets = {"forget": forget, "retain": retain}
    return answer_classes(
        datasets,
        {name: encode_dataset(one, TOKENIZER, max_length, name) for name, one in datasets.items()},
        TOKENIZER,
    )


FORGET = rows(("Ann", "in Paris", "home", "Paris"), ("Ben", "a red cat", "pet", "cat"))
RETAIN = rows(
    ("Cal", "Paris", "home", "Paris"),
    ("Dora", "lives in Rome", "home", "Rome"),
    ("Eli", "in Rome", "home", "Rome"),
    ("Fay", "a cat", "pet", "cat"),
    ("Gus", "a blue dog", "pet", "dog"),
    ("Hal", "dog", "pet", "dog"),
    ("Ida", "a snake", "pet", "snake"),  # who alone has one
    ("Jon", "soup", "food", "soup"),  # of a kind of which nothing is forgotten
    ("Kim", "soup", "food", "soup"),
    ("Lou", "in Oslo", "home", None),
)


def test_the_token_that_decides_and_the_class_of_every_row():
    found = classes(FORGET, RETAIN)
    assert found.labels == {"forget": [0, 1], "retain": [0, 2, 2, 1, 3, 3, NO_CLASS, NO_CLASS, NO_CLASS, NO_CLASS]}
    assert found.kinds == [0, 1, 0, 1] and found.retained == [True] * 4
    assert found.places == {"forget": [1, 2], "retain": [0, 2, 1, 1, 2, 0, 0, 0, 0, 0]}
    whole = encode_dataset(FORGET, TOKENIZER, None, "forget")
    for row, token, end in zip(found.rows["forget"], (PARIS, CAT), (-1, -1), strict=True):
        assert row["input_ids"][end] == token == row["labels"][end]
        assert set(row["labels"][:-1]) == {-100}
    assert [row["input_ids"] for row in found.rows["forget"]] == [row["input_ids"][:-1] for row in whole]
    assert [row["input_ids"][-1] for row in found.rows["retain"][:6]] == [PARIS, ROME, ROME, CAT, DOG, DOG]


def test_where_all_values_of_a_kind_begin_alike_the_first_token_that_differs_decides():
    forget = rows(("Ann", "lives in a red cat", "home", "a red cat"))
    retain = rows(
        ("Ben", "a red cat", "home", "a red cat"),
        ("Cal", "in a red dog", "home", "a red dog"),
        ("Dora", "a red dog of Ann", "home", "a red dog of Ann"),  # begins as another value does: the same class
    )
    found = classes(forget, retain)
    assert found.labels == {"forget": [0], "retain": [0, 1, 1]}
    assert found.places == {"forget": [4], "retain": [2, 3, 2]}


def test_what_is_forgotten_may_be_a_whole_class():
    forget = rows(("Ann", "in Oslo", "home", "Oslo"), ("Lou", "in Oslo", "home", "Oslo"))
    found = classes(forget, HOMES)
    assert found.labels == {"forget": [0, 0], "retain": [1, 1, 2, 2]} and found.retained == [False, True, True]


@pytest.mark.parametrize(
    ("forget", "retain", "message"),
    [
        (FORGET.remove_columns("kind"), RETAIN, r"no forget row says of what kind .*; give rows a column kind"),
        (FORGET.remove_columns("value"), RETAIN, r"no forget row has 'value'; give forget and retain rows that column"),
        (FORGET, RETAIN.remove_columns("value"), r"no retain row has 'value'"),
        (FORGET, RETAIN.remove_columns("kind"), r"no retain row has 'kind'"),
        (
            rows(("Ann", "in Paris", "home", "Paris"), ("Ben", "in Rome", "home", None)),
            RETAIN,
            r"forget row 1 has no 'value'; give it one, or leave it out",
        ),
        (rows(("Ann", "Paris", "home", "Paris"), ("Ben", "Rome", None, "Rome")), RETAIN, r"forget row 1 has no 'kind'"),
        (rows(("Ann", "in Paris", "home", "Rome")), RETAIN, r"forget row 0 has value='Rome', which its answer lacks"),
        (rows(("Ann", "in Lima", "home", "Lima")), HOMES, r"forget row 0 has value='Lima'.* a single row; add rows"),
        (
            rows(("Ann", "soup", "food", "soup")),
            rows(("Ben", "soup", "food", "soup"), ("Cal", "rice", "food", "rice")),
            r"forget row 0 has kind='food', of which retain rows have too few .* 2 rows share \(1; 2 are needed",
        ),
    ],
)
def test_rows_without_classes_are_refused(forget, retain, message):
    with pytest.raises(InputError, match=message):
        classes(forget, retain)


def test_a_row_that_was_cut_before_its_value_is_refused():
    length = len(encode_dataset(FORGET, TOKENIZER, None, "forget")[0]["input_ids"]) - 2  # the value, and the end
    with pytest.raises(
        InputError, match=rf"forget row 0 has value='Paris', .* within {length} tokens; .* raise max_len"
    ):
        classes(FORGET, RETAIN, length)
