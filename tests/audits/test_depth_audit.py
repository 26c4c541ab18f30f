"""Unlearning depth of models: what is asked for, identities, and what stands in for an oracle."""

import pytest
from builders import qa_rows, tiny_model, tiny_tokenizer, with_trained_adapter
from datasets import Dataset

from llm_unlearn.audits.asked import values_of
from llm_unlearn.audits.audit import Inspection
from llm_unlearn.audits.depth import AUDIT, about_others, swapped
from llm_unlearn.data import UnlearningData
from llm_unlearn.errors import InputError
from llm_unlearn.models.patching import Asked


def inspection(forget: Dataset, retain: Dataset | None = None) -> Inspection:
    data = UnlearningData(forget, retain, None, {}, "rows")
    return Inspection(data, tiny_tokenizer(), "log_odds", (1.0,), None, (0, 1), None, None, batch_size=4)


def with_people(rows: Dataset) -> Dataset:
    return rows.add_column("person", [row["fact_id"].partition("/")[0] for row in rows])


def row(ids: list[int], start: int) -> dict:
    return {"input_ids": ids, "labels": [-100] * start + ids[start:]}


def test_a_value_is_what_other_answers_do_not_share():
    true = row([1, 2, 3, 4, 5, 9], 2)
    assert values_of([true], [[row([1, 2, 3, 6, 5, 9], 2)]]) == [Asked((1, 2, 3, 4, 5, 9), 3, 4)]
    several = [[row([1, 2, 3, 6, 5, 9], 2)], [row([1, 2, 3, 4, 7, 7, 9], 2)]]
    assert values_of([true], several)[0].value == (4, 5)
    assert values_of([true], [[row([1, 2, 3, 4, 5, 6, 9], 2)]])[0].value == (9,)  # it ends where the other goes on
    assert values_of([true], [[true]]) == [None]
    assert values_of([true], [[row([1, 8, 3, 4, 5, 9], 2)]]) == [None]  # another question
    assert swapped(Asked((1, 2, 3, 4, 5, 9), 3, 5), row([1, 7, 7, 3, 4, 5, 9], 3)) == Asked((1, 7, 7, 3, 4, 5, 9), 4, 6)
    assert swapped(Asked((1, 2, 3, 4, 5, 9), 3, 5), row([1, 7, 7, 3, 5, 9], 3)) is None


def test_the_original_has_depth_zero_and_the_oracle_one():
    measure = AUDIT.start(inspection(qa_rows(12)))
    original, oracle, other = tiny_model(), tiny_model(seed=1), with_trained_adapter(tiny_model())
    assert measure("original", original) == measure("oracle", oracle) == {}
    found = measure("oracle_1", oracle)["depth"]
    assert found["uds"] == found["of_means"] == 1 and found["by_layer"] == found["interval"] == [1, 1]
    assert found["unclipped"] == pytest.approx(1)
    assert found["reference"] == "oracle" and found["tokens"] == "values"
    assert found["rows"] + found["rows_left_out"] == 12
    found = measure("unlearned", tiny_model())["depth"]
    assert found["uds"] == pytest.approx(0, abs=1e-5) and found["by_layer"] == pytest.approx([0, 0], abs=1e-5)
    found = measure("unlearned_1", other)["depth"]
    low, high = found["interval"]
    assert 0 < low < found["uds"] < high < 1
    assert found["uds"] == pytest.approx(sum(found["value_by_index"].values()) / found["rows"])
    with pytest.raises(InputError, match="unlearned 2 has 3 blocks of width 32, the original 2 of width 32"):
        measure("unlearned_2", tiny_model(num_hidden_layers=3))


def test_without_an_oracle_the_original_is_asked_about_others():
    forget, retain = with_people(qa_rows(4)), with_people(qa_rows(6, 6))
    told = about_others(forget, ["Gus", "Hal", "Ida"])
    assert [row["prompt"][0]["content"] for row in told] == [
        "Where does Gus live",
        "What does Hal eat",
        "Which pet does Ida have",
        "Where does Gus live",
    ]
    assert told["completion"] == forget["answer"]
    measure = AUDIT.start(inspection(forget, retain))
    measure("original", tiny_model())
    found = measure("unlearned", with_trained_adapter(tiny_model()))["depth"]
    assert found["reference"] == "original, asked about others" and 0 < found["uds"] <= 1
    measure = AUDIT.start(inspection(forget, None))
    measure("original", tiny_model())
    with pytest.raises(InputError, match="no row to retain or held out has a person"):
        measure("unlearned", tiny_model())
    measure = AUDIT.start(inspection(qa_rows(4), retain))
    measure("original", tiny_model())
    with pytest.raises(InputError, match="no forget question names its person"):
        measure("unlearned", tiny_model())


def test_where_no_other_answers_can_be_made_the_whole_answers_count():
    measure = AUDIT.start(inspection(qa_rows(1)))
    measure("original", tiny_model())
    measure("oracle", tiny_model(seed=2))
    found = measure("unlearned", tiny_model(seed=2))["depth"]
    assert found["tokens"] == "whole answers" and found["uds"] == 1 and found["interval"] is None


def test_an_original_that_has_nothing_to_lose_is_refused():
    measure = AUDIT.start(inspection(qa_rows(1)))
    measure("original", tiny_model())
    measure("oracle", tiny_model())
    with pytest.raises(InputError, match="no row's answer loses more than"):
        measure("unlearned", tiny_model(seed=2))
