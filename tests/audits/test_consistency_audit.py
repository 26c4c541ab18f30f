"""Retrain consistency of models: who is compared with whom, and what is refused."""

import pytest
from builders import qa_rows, tiny_model, tiny_tokenizer, with_trained_adapter
from datasets import Dataset

from llm_unlearn.audits.audit import Inspection
from llm_unlearn.audits.consistency import AUDIT, halves, questions, sampled
from llm_unlearn.data import UnlearningData
from llm_unlearn.errors import InputError


def inspection(forget: Dataset, retain: Dataset | None) -> Inspection:
    data = UnlearningData(forget, retain, None, {}, "rows")
    return Inspection(data, tiny_tokenizer(), "log_odds", (1.0,), None, (0,), None, None, batch_size=4)


def with_people(rows: Dataset) -> Dataset:
    return rows.add_column("person", [row["fact_id"].partition("/")[0] for row in rows])


def test_models_are_compared_with_the_first_oracle():
    measure = AUDIT.start(inspection(with_people(qa_rows(6)), with_people(qa_rows(24, 6))))
    original, oracle, other = tiny_model(), with_trained_adapter(tiny_model(), 1), with_trained_adapter(tiny_model(), 2)
    assert measure("original", original) == measure("oracle", oracle) == {}
    ceiling = measure("oracle_1", other)["consistency_ceiling"]
    assert measure("unlearned", other) == {"consistency": ceiling}
    found = measure("unlearned_1", oracle)["consistency"]
    assert found["raw"]["forget_consistency"]["by_layer"] == pytest.approx([1, 1], abs=1e-6)
    assert found["aligned"]["retain_consistency"]["value"] == pytest.approx(1, abs=1e-6)
    assert found["cka"]["forget"] == pytest.approx([1, 1])
    found = measure("unlearned_2", tiny_model())["consistency"]
    assert found["raw"]["forget_consistency"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["aligned"]["forget_consistency"]["value"] == pytest.approx(0, abs=1e-6)
    low, high = ceiling["raw"]["forget_consistency"]["interval"]
    assert low < ceiling["raw"]["forget_consistency"]["value"] < high < 0.5  # six people


def test_what_cannot_be_compared_is_refused_with_the_reason():
    measure = AUDIT.start(inspection(qa_rows(6), qa_rows(20, 6)))
    measure("original", tiny_model())
    with pytest.raises(InputError, match="give --oracle_model_name_or_path"):
        measure("unlearned", tiny_model())
    with pytest.raises(InputError, match="oracle has 3 blocks of width 32, the original 2 of width 32"):
        measure("oracle", tiny_model(num_hidden_layers=3))
    with pytest.raises(InputError, match="no retain rows"):
        AUDIT.start(inspection(qa_rows(6), None))
    one_person = qa_rows(6).add_column("person", ["Ann"] * 6).select([0])
    with pytest.raises(InputError, match="about one person; give rows about two or more"):
        AUDIT.start(inspection(qa_rows(6), one_person))
    with pytest.raises(InputError, match="forget set: plain text has no question"):
        AUDIT.start(inspection(Dataset.from_list([{"text": "Ann lives in Paris"}]), qa_rows(6)))


def test_rows_are_shared_out_by_people_and_drawn_once():
    rows = with_people(qa_rows(36))
    first, second = halves(rows)
    assert len(set(first["person"])) == len(set(second["person"])) == 6
    assert set(first["person"]).isdisjoint(second["person"])
    assert sampled(rows, 40) is rows
    assert sampled(rows, 10)["question"] == sampled(rows, 10)["question"]
    tokenizer = tiny_tokenizer()
    assert [tokenizer.decode(ids) for ids in questions(inspection(rows, None), rows.select([0, 1]), "rows")] == [
        "<user> Where does Ann live <end> <assistant>",
        "<user> What does Ben eat <end> <assistant>",
    ]
