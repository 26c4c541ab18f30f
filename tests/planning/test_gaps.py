"""What is missing for a verdict, by name."""

import pytest
from datasets import Dataset

from llm_unlearn.data.loading import load_unlearning_data
from llm_unlearn.data.unlearning_data import UnlearningData
from llm_unlearn.planning.gaps import find_gaps


def data(people, kinds):
    rows = zip(people, kinds, strict=True)
    forget = [{"question": f"q{i}", "answer": f"a{i}", "person": p, "kind": k} for i, (p, k) in enumerate(rows)]
    return UnlearningData(Dataset.from_list(forget), None, None, {}, "rows")


def missing(*given):
    return [gap.missing for gap in find_gaps(*given)]


def test_rows_alone_lack_everything():
    styles = "questions in other words, with half of the answer given, after three examples, as multiple choice, in "
    styles += "reverse, through a second fact, as a gap to fill"
    rest = ["general rows", "rows of general facts", "rows of instructions", "holdout rows", styles]
    given = data(["Ann", "Ann"], ["x", "y"])
    assert missing(given, None, []) == ["retain rows", "oracle", "kind column", "person column", *rest]
    alone = "two facts of one kind (column 'kind')"
    assert missing(given, "kind", ["oracle"]) == ["retain rows", alone, "person column", *rest]


@pytest.mark.parametrize(
    ("people", "kinds", "expected"),
    [
        (["Ann", "Ben", "Cal"], ["x", "x", "x"], []),
        (["Ann", "Ben", "Cal"], ["x", "x", "y"], ["made-up answers of 1 of 3 forget rows"]),
        (["Ann", "Ben", None], ["x", "x", "x"], ["person of 1 of 3 forget rows"]),
    ],
)
def test_rows_that_lack_a_part(people, kinds, expected):
    assert missing(data(people, kinds), "kind", ["oracle"])[1:-5] == expected


def test_a_world_lacks_little():
    found = missing(load_unlearning_data("fictional:tiny"), "attribute", ["oracle"])
    assert {"retain rows", "oracle", "general rows", "holdout rows", "rows of instructions"}.isdisjoint(found)
