"""The one line on what is to be forgotten, and how much of it each attack teaches and scores: counted by hand."""

import pytest
from builders import qa_rows
from datasets import Dataset

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.data import UnlearningData
from llm_unlearn.errors import InputError
from llm_unlearn.examining.usage import forget_words


def data(rows):
    return UnlearningData(rows, None, None, {}, "made up")


def words(rows, attacks, pool=None, **settings):
    arguments = AttackArguments(attacks=attacks, **{"counterfactual": False} | settings)
    return forget_words(data(rows), arguments, pool)


def test_rows_facts_and_people():
    assert forget_words(data(qa_rows(6)), None) == "6 rows, 6 facts"
    assert forget_words(data(qa_rows(1)), None) == "1 row, 1 fact"
    named = Dataset.from_dict(
        {"question": ["a", "A?", "b", "c"], "answer": [*"wxyz"], "person": ["P", "", "Q", "P"], "fact_id": [None] * 4}
    )
    assert forget_words(data(named), None) == "4 rows, 3 facts, 2 people, 1 row about nobody named"


def test_what_reinjection_teaches():
    """Forty facts, of which two have three rows and the others one: 44 rows, of which seeds teach different numbers."""
    repeated = qa_rows(10).remove_columns("fact_id").to_list()
    assert words(Dataset.from_list(repeated), ["adversarial_reinjection", "benign_relearning", "prompting"]) == (
        "10 rows, 10 facts; adversarial reinjection teaches 3 facts (3 rows), scores 7 facts (7 rows); benign "
        "relearning, prompting: no forget row is taught, all are scored"
    )
    thrice = Dataset.from_list([row for row in repeated for _ in range(3)])
    assert words(thrice, ["adversarial_reinjection"]) == (
        "30 rows, 10 facts; adversarial reinjection teaches 3 facts (9 rows), scores 7 facts (21 rows)"
    )
    lopsided = Dataset.from_list([*repeated[:2], *repeated[:1]])  # the first fact has two rows
    assert words(lopsided, ["adversarial_reinjection"], attack_seeds=[*range(8)]) == (
        "3 rows, 2 facts; adversarial reinjection teaches 1 fact (1-2 rows), scores 1 fact (1-2 rows)"
    )


def test_the_pool_is_told_when_it_is_known_and_the_control_has_none():
    chosen = {"reinjection_pool": "forgotten", "counterfactual": True}
    control = "; the control teaches 3 facts (3 rows), scores 7 facts (7 rows)"
    assert words(qa_rows(10), ["adversarial_reinjection"], **chosen) == (
        "10 rows, 10 facts; adversarial reinjection teaches and scores what the unlearned model will answer wrongly"
        + control
    )
    assert words(qa_rows(10), ["adversarial_reinjection"], pool=[2, 5, 7], **chosen) == (
        "10 rows, 10 facts; adversarial reinjection teaches 1 fact (1 row), scores 2 facts (2 rows)" + control
    )
    assert words(qa_rows(10), [], counterfactual=True) == "10 rows, 10 facts" + control
    assert words(qa_rows(1), [], counterfactual=True) == "1 row, 1 fact"  # which cannot have a control


def test_what_leaving_one_group_out_teaches():
    """Of three people, one of whom asks what another asks: that row is never taught while the other is scored."""
    people = ["P", "P", "Q", "Q", "R"]
    rows = Dataset.from_dict({"question": ["a", "b", "c", "A", "d"], "answer": [*"vwxyz"], "person": people})
    assert words(rows, ["leave_one_group_out"]) == (
        "5 rows, 4 facts, 3 people; leave one group out teaches 2-3 facts (2-4 rows, 2 people), scores 1-2 facts "
        "(1-2 rows, 1 person)"
    )
    with pytest.raises(InputError, match="facts of group 'P' are those of all other groups, and nothing is left to"):
        words(rows.select([0, 3]), ["leave_one_group_out"])
