"""`run_attack`: from data sets as they were loaded to one attack."""

import pytest
from builders import encoded_rows, qa_rows, tiny_model, tiny_tokenizer
from datasets import Dataset

from llm_unlearn.attacks import AttackBudget, run, run_attack
from llm_unlearn.data import UnlearningData

BUDGET = AttackBudget(learning_rates=(5e-3,), fraction=0.5, seeds=(0,), steps=2)


def data(forget=None, retain_count=40):
    retain = Dataset.from_list(
        [qa_rows(1, 20)[0] | {"question": f"Where does Ann live {i}"} for i in range(retain_count)]
    )
    return UnlearningData(forget or qa_rows(6), retain if retain_count else None, None, {}, "made up")


def attack(name, given, **options):
    return run_attack(
        name, tiny_model(), tiny_tokenizer(), given, BUDGET, **{"instructions": qa_rows(3, start=30)} | options
    )


@pytest.fixture
def calls(monkeypatch):
    """What the two attacks were called with, in place of running them."""
    found = []
    for name in ("adversarial_reinjection", "benign_relearning"):
        monkeypatch.setattr(run, name, lambda *args, _name=name: found.append((_name, *args)) or {})
    return found


def test_reinjection_gets_encoded_rows_and_facts(calls):
    attack("adversarial_reinjection", data(), title="mine")
    name, _, forget, retain, budget, fact_ids, title = calls[0]
    assert (name, budget, title) == ("adversarial_reinjection", BUDGET, "mine")
    assert forget == encoded_rows(6)
    assert list(fact_ids) == qa_rows(6)["fact_id"][:]
    assert len(retain) == 40


def test_benign_tuning_gets_instructions(calls):
    attack("benign_relearning", data())
    name, _, instructions, forget, _, _, title = calls[0]
    assert (name, title) == ("benign_relearning", "benign relearning")
    assert instructions == encoded_rows(3, 30) and forget == encoded_rows(6)


def test_rows_without_fact_ids(calls):
    attack("adversarial_reinjection", data(qa_rows(6).remove_columns("fact_id")))
    assert calls[0][5] is None


def test_max_length_cuts_every_row(calls):
    attack("adversarial_reinjection", data(), max_length=10)
    assert max(len(row["input_ids"]) for row in calls[0][2]) == 10


def test_both_attacks_run():
    for name in ("adversarial_reinjection", "benign_relearning"):
        outcome = attack(name, data())
        assert [point["step"] for point in outcome["curve"]] == [0, 2]
        assert 0 < outcome["forget_probability"] < 1
