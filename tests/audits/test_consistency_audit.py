"""Retrain consistency of models: who is compared with whom, and what is refused."""

import numpy as np
import pytest
from builders import qa_rows, tiny_model, tiny_tokenizer, with_trained_adapter
from datasets import Dataset

from llm_unlearn.audits.asked import sampled
from llm_unlearn.audits.audit import Inspection
from llm_unlearn.audits.consistency import AUDIT, Looked, halves, looked_at
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
    assert [*ceiling] == ["question", "value"]
    found = measure("unlearned_1", oracle)["consistency"]["value"]
    assert found["raw"]["forget_consistency"]["by_layer"] == pytest.approx([1, 1], abs=1e-6)
    assert found["aligned"]["retain_consistency"]["value"] == pytest.approx(1, abs=1e-6)
    assert found["cka"]["forget"] == pytest.approx([1, 1])
    found = measure("unlearned_2", tiny_model())["consistency"]["value"]
    assert found["raw"]["forget_consistency"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["aligned"]["forget_consistency"]["value"] == pytest.approx(0, abs=1e-6)
    found = ceiling["value"]["raw"]["forget_consistency"]
    low, high = found["interval"]
    assert low < found["value"] < high < 0.5  # six people


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
    with pytest.raises(InputError, match="plain text has no question"):
        AUDIT.start(inspection(Dataset.from_list([{"text": "Ann lives in Paris"}]), qa_rows(6)))


def test_rows_are_shared_out_by_people_and_drawn_once():
    rows = with_people(qa_rows(36))
    first, second = halves(rows)
    assert len(set(first["person"])) == len(set(second["person"])) == 6
    assert set(first["person"]).isdisjoint(second["person"])
    assert sampled(rows, 40) is rows
    assert sampled(rows, 10)["question"] == sampled(rows, 10)["question"]


def test_places_are_the_end_of_the_question_and_before_the_value():
    rows = with_people(qa_rows(36))
    (looked,) = looked_at(inspection(rows, None), [rows.select([0, 3, 6, 9])])  # in Paris, in Cairo, in Delhi, in Oslo
    said = [
        [tiny_tokenizer().decode(text[position]) for text, position in zip(looked.texts, positions, strict=True)]
        for positions in looked.places.values()
    ]
    assert [*looked.places] == ["question", "value"] and said == [["<assistant>"] * 4, ["in"] * 4]
    states = looked.states(tiny_model(), batch_size=3)
    assert states["question"].shape == states["value"].shape == (2, 4, 32)
    alone = Looked(looked.texts[2:3], {"value": looked.places["value"][2:3]}, [0]).states(tiny_model(), batch_size=3)
    assert np.allclose(states["value"][:, 2:3], alone["value"], atol=1e-5)
    (looked,) = looked_at(inspection(rows, None), [rows.select([0])])  # no other answer can be made for one row
    assert [*looked.places] == ["question"]
