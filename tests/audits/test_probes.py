"""Transfer probes on models whose hidden states carry what was put there, and the questions that they are asked."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import qa_rows
from datasets import Dataset
from planted import FORGOTTEN, RETAINED, planted_data, planted_model, planted_tokenizer, value_of

from llm_unlearn.audits.audit import Inspection
from llm_unlearn.audits.probe_questions import probe_questions
from llm_unlearn.audits.probes import AUDIT, head_alignment, probe_reading
from llm_unlearn.data import UnlearningData, load_unlearning_data
from llm_unlearn.errors import InputError


def inspection(data: UnlearningData) -> Inspection:
    return Inspection(data, planted_tokenizer(), "log_odds", (1.0,), None, (0,), None, None, 16)


def questions_of(data: UnlearningData):
    return probe_questions(data, planted_tokenizer(), None, None)


@pytest.fixture(scope="module")
def models():
    original = planted_model({*RETAINED, *FORGOTTEN})
    head_only = copy.deepcopy(original)
    with torch.no_grad():
        head_only.lm_head.weight += torch.randn_like(head_only.lm_head.weight)
    return {"original": original, "oracle": planted_model(RETAINED), "unlearned": head_only}


@pytest.fixture(scope="module")
def found(models):
    measure = AUDIT.start(inspection(planted_data()))
    return {name: measure(name, model)["probes"] for name, model in models.items()}


def test_who_knows_is_read_and_who_does_not_is_at_chance(found):
    original, oracle = (found[name]["layers"] for name in ("original", "oracle"))
    assert found["original"]["chance"] == pytest.approx((1 / 4 + 1 / 3) / 2)
    for knowing, ignorant in zip(original, oracle, strict=True):
        assert knowing["forgotten"] >= 0.9 and knowing["retained"] >= 0.9 and ignorant["retained"] >= 0.9
        assert knowing["forgotten_held_out"] >= 0.5 and knowing["retained_held_out"] >= 0.5  # chance: 0.29
        assert abs(ignorant["forgotten"] - 0.29) <= 0.2 and abs(knowing["shuffled"] - 0.29) <= 0.2
        low, high = ignorant["interval"]
        assert low <= 0.29 <= high < knowing["interval"][1]
    assert found["original"]["people"] == {"retained": 24, "forgotten": 12, "never_trained": 6}
    assert len(found["original"]["value_by_index"]) == 24


def test_members_are_told_from_strangers(found):
    for name in ("original", "oracle"):
        member = found[name]["membership"]
        assert member["auc"] == 1.0 and (member["retained"], member["never_trained"]) == (1.0, 0.0)
    assert found["original"]["membership"]["forgotten"] == 1.0
    assert found["oracle"]["membership"]["forgotten"] == 0.0


def test_a_model_with_another_head_probes_like_the_original(found):
    assert found["unlearned"]["layers"] == found["original"]["layers"]
    assert found["unlearned"]["alignment"]["retained"] != found["original"]["alignment"]["retained"]
    reading = found["unlearned"]["reading"]
    assert reading["share"] == 1.0 and reading["interval"][0] > 0.4
    assert reading["excess"] == pytest.approx(reading["original"] - reading["oracle"])


def test_what_is_left_by_hand():
    """Four rows of two people, two blocks, of which the second counts."""
    known = {
        "original": np.array([[0, 0, 0, 0], [1, 1, 1, 1]]),
        "oracle": np.array([[0, 0, 0, 0], [1, 0, 0, 0]]),
        "oracle_1": np.array([[0, 0, 0, 0], [0, 0, 0, 1]]),
    }
    found = probe_reading(np.array([[1, 1, 1, 1], [1, 1, 0, 0]]), known, 1, [0, 0, 1, 1])
    assert (found["original"], found["oracle"], found["unlearned"]) == (1.0, 0.25, 0.5)
    assert found["excess"] == 0.25 and found["share"] == pytest.approx(1 / 3)
    assert found["interval"][0] < 0 < found["interval"][1]
    assert found["most"] == {"block": 0, "excess": 1.0, "interval": [1.0, 1.0]}


def test_where_the_original_knows_no_more_than_oracles_nothing_is_concluded():
    original = np.array([[1, 0, 0, 0, 0, 0, 0]])
    found = probe_reading(original, {"original": original}, 0, range(7))
    assert found == {"refused": "there is no oracle to say what can be read off where nothing was known"}
    found = probe_reading(original, {"original": original, "oracle": np.zeros((1, 7))}, 0, range(7))
    assert "original 0.14 and oracles 0.00 differ by less than 0.15" in found["refused"] and "share" not in found


# ---- what is asked ---------------------------------------------------------------------------------------------------


def test_the_context_ends_before_the_value():
    questions, notes = questions_of(planted_data())
    tokenizer = planted_tokenizer()
    assert notes == [] and set(questions) == {
        *("retained", "retained_held_out", "forgotten", "forgotten_held_out", "never_trained")
    }
    city, pet = questions["forgotten"][:2]
    assert tokenizer.decode(city.context) == "<user> Where does Gone0 live <end> <assistant> Gone0 lives in"
    assert tokenizer.decode(pet.context) == "<user> Which pet has Gone0 <end> <assistant> has a"
    assert (tokenizer.decode([city.token]), city.value, city.kind) == ("Paris", "lives in paris", "city")
    reworded = questions["forgotten_held_out"][0]
    assert tokenizer.decode(reworded.context) == "<user> Where live does Gone0 <end> <assistant> Gone0 lives in"


def test_a_value_in_the_answer_says_where_it_begins():
    data, columns = planted_data(), {}
    for name in ("retain", "forget"):
        rows = getattr(data, name)
        values = [value_of(row["person"], row["kind"]) for row in rows]
        columns[name] = rows.add_column("value", values)
    questions, _ = questions_of(replace(data, holdout=None, **columns))
    assert {question.value for question in questions["forgotten"][::2]} == {"paris", "rome", "oslo", "cairo"}
    assert planted_tokenizer().decode(questions["forgotten"][0].context).endswith("Gone0 lives in")


def test_values_that_nobody_shares_are_left_out_and_counted():
    data = planted_data()
    rows = data.forget.to_list()
    rows[0]["answer"] = "Gone0 lives in Which"
    questions, notes = questions_of(replace(data, forget=Dataset.from_list(rows)))
    assert notes == ["1 forgotten facts are left out, city (1): no 2 retained people have the value"]
    assert len(questions["forgotten"]) == 23 and len(questions["forgotten_held_out"]) == 23
    lacking = [rows[0], rows[1] | {"paraphrased_question": " "}, *rows[2:]]
    _, notes = questions_of(replace(data, forget=Dataset.from_list(lacking)))
    assert notes[1:] == ["1 forgotten rows are left out: they lack a person, kind, question or other wording"]
    for row in rows:
        row["answer"] = "Gone0 lives in Which" if row["kind"] == "city" else row["answer"]
    questions, notes = questions_of(replace(data, forget=Dataset.from_list(rows)))
    assert notes == ["12 forgotten facts are left out, city (12): no 2 retained people have the value"]
    assert {question.kind for part in questions.values() for question in part} == {"pet"}


def test_data_that_is_not_enough():
    data = planted_data()
    for changes, message in (
        ({"retain": None}, "there is no retain set to learn the readouts from"),
        ({"forget": data.forget.remove_columns("kind")}, "no forget row says of what kind its fact is"),
        ({"retain": data.retain.remove_columns("person")}, "no row of the retained facts has 'person'; give"),
        (
            {"forget": data.forget.remove_columns("paraphrased_question")},
            "no row of the forgotten facts has 'paraphrased_q",
        ),
        ({"forget": data.forget.select([0, 1])}, "1 forgotten people have a value that 2 retained .* and 2 are needed"),
        ({"retain": data.retain.select(range(18))}, "9 retained people have a value that .* and 10 are needed"),
        ({"forget": qa_rows(3)}, "no forget row says of what kind"),
    ):
        with pytest.raises(InputError, match=f"probes: {message}") as error:
            AUDIT.start(inspection(replace(data, **changes)))
        assert "\n" not in str(error.value)
    with pytest.raises(
        InputError, match=r"0 retained people .* data with more people; .* birth_date \(1\), book \(1\)"
    ):
        questions_of(load_unlearning_data("fictional:tiny"))


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_alignment_by_hand(models):
    model = models["original"]
    questions, _ = questions_of(planted_data())
    of_pets = {name: [q for q in questions[name] if q.kind == "pet"] for name in ("retained", "forgotten")}
    rows = model.lm_head.weight.detach().numpy()
    # States that are the rows themselves; forgotten ones those of the next value.
    token_of = {question.value: question.token for question in of_pets["retained"]}
    following = dict(zip(token_of.values(), [*list(token_of.values())[1:], next(iter(token_of.values()))], strict=True))
    ends = {
        "retained": np.array([rows[q.token] for q in of_pets["retained"]]),
        "forgotten": np.array([rows[following[q.token]] for q in of_pets["forgotten"]]),
    }
    found = head_alignment(model, ends, of_pets)
    unit = rows[list(token_of.values())]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    apart = [cosines[0, 1], cosines[1, 2], cosines[2, 0]]
    assert found["retained"] == pytest.approx([1.0, np.mean(apart)], abs=1e-5)
    assert found["forgotten"] == pytest.approx([np.mean(apart), (1 + np.mean(apart)) / 2], abs=1e-5)
    assert found["left_out"] == 0 and list(found["by_value"]) == [f"pet: {value}" for value in token_of]
