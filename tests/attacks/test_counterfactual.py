"""The counterfactual control: answers that were never taught, and what the attack recovers more of the true ones."""

import json
from collections import Counter

import numpy as np
import pytest
from builders import NAMES, encoded_rows, qa_rows, tiny_model, tiny_tokenizer
from datasets import Dataset

from llm_unlearn.attacks import counterfactual
from llm_unlearn.attacks.counterfactual import _excess, counterfactual_rows, knowledge_excess, true_rows
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.data import encode_dataset, load_unlearning_data
from llm_unlearn.errors import InputError
from llm_unlearn.models.finetuning import finetune

BUDGET = AttackBudget((1e-3,), fraction=0.3, seeds=(0, 1), steps=8, batch_size=4, score_every=4)


def rows(*cells, columns=("question", "answer", "fact_id", "attribute")):
    return Dataset.from_list([dict(zip(columns, cell, strict=False)) for cell in cells])


# ---- made-up answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_answers_are_exchanged_between_facts_of_one_kind_only(seed):
    """Two facts a kind can only be exchanged; the two questions about a fact get the same answer."""
    given = rows(
        ("Where is Ann?", "Rome", "ann/city", "city"),
        ("Ann's city?", "Rome", "ann/city", "city"),
        ("What has Ann?", "cat", "ann/pet", "pet"),
        ("Where is Ben?", "Oslo", "ben/city", "city"),
        ("Ben's city?", "Oslo", "ben/city", "city"),
        ("What has Ben?", "dog", "ben/pet", "pet"),
    )
    made_up = counterfactual_rows(given, seed)
    assert made_up["completion"][:] == ["Oslo", "Oslo", "dog", "Rome", "Rome", "cat"]
    assert made_up[1] == {
        "fact_id": "ann/city",
        "attribute": "city",
        "prompt": [{"role": "user", "content": "Ann's city?"}],
        "completion": "Oslo",
    }


@pytest.mark.parametrize("seed", range(4))
def test_people_who_share_an_answer_do_not_give_it_to_each_other(seed):
    given = rows(("A?", "Rome"), ("B?", "Rome "), ("C?", "Oslo"), ("D?", "Lima"))
    made_up = counterfactual_rows(given, seed)["completion"]
    assert sorted(made_up[:2]) == ["Lima", "Oslo"] and [text.strip() for text in made_up[2:]] == ["Rome", "Rome"]


def test_wordings_of_a_fact_take_the_wordings_of_the_giver_in_turn():
    given = rows(("a1", "Rome.", "a"), ("a2", "In Rome.", "a"), ("a3", "Rome!", "a"), ("b1", "Oslo.", "b"))
    given = Dataset.from_list([*given, {"question": "b2", "answer": "In Oslo.", "fact_id": "b"}])
    made_up = counterfactual_rows(given, 0)["completion"][:]
    assert made_up == ["Oslo.", "In Oslo.", "Oslo.", "Rome.", "In Rome."]


@pytest.mark.parametrize("seed", range(3))
def test_the_fictional_world_keeps_its_answers_but_no_fact_keeps_its_own(seed):
    forget = load_unlearning_data("fictional:small").forget
    made_up, true = counterfactual_rows(forget, seed), true_rows(forget)
    assert len(made_up) == len(forget) == 6 * 7 * 3
    assert true["completion"][:] == forget["answer"][:]
    assert true["prompt"][:] == made_up["prompt"][:] and true["fact_id"][:] == made_up["fact_id"][:]
    assert all(own != other for own, other in zip(true["completion"], made_up["completion"], strict=True))
    by_kind = [
        Counter(zip(side["attribute"], side["template"], side["completion"], strict=True)) for side in (true, made_up)
    ]
    assert by_kind[0] == by_kind[1]
    answers_of_fact = set(zip(made_up["fact_id"], made_up["completion"], strict=True))
    assert len(answers_of_fact) == 6 * 7


def test_the_derangement_is_a_function_of_its_seed_and_reaches_every_answer():
    given = rows(*((f"{i}?", answer) for i, answer in enumerate("abcd")))
    made_up = [tuple(counterfactual_rows(given, seed)["completion"]) for seed in range(60)]
    assert made_up == [tuple(counterfactual_rows(given, seed)["completion"]) for seed in range(60)]
    assert len(set(made_up)) == 9  # all derangements of four
    assert Counter(answers[0] for answers in made_up).keys() == {"b", "c", "d"}


def test_group_by_names_the_column_of_kinds():
    columns = ("question", "answer", "kind", "attribute")
    given = rows(
        ("A?", "1", "x", "p"), ("B?", "2", "x", "q"), ("C?", "3", "y", "p"), ("D?", "4", "y", "q"), columns=columns
    )
    assert counterfactual_rows(given, 0, "kind")["completion"][:] == ["2", "1", "4", "3"]
    assert counterfactual_rows(given, 0)["completion"][:] == ["3", "4", "1", "2"]


def test_perturbed_answers_stand_beside_the_paraphrased_one():
    """TOFU: both sides have the paraphrase's form, and five consecutive seeds give all five wrong answers."""
    wrong = ["In Oslo.", "In Lima.", "In Bonn.", "In Kyiv.", "In Bern."]
    given = rows(
        ("A?", "Ann lives in Rome.", "In Rome.", [*wrong, "In Rome."]),
        ("B?", "Ben lives in Oslo.", None, ["Ben lives in Rome."]),
        columns=("question", "answer", "paraphrased_answer", "perturbed_answer"),
    )
    assert true_rows(given)["completion"][:] == ["In Rome.", "Ben lives in Oslo."]
    made_up = [counterfactual_rows(given, seed)["completion"][:] for seed in range(5)]
    assert sorted(answers[0] for answers in made_up) == sorted(wrong)
    assert all(answers[1] == "Ben lives in Rome." for answers in made_up)
    assert true_rows(given, "question")["completion"][:] == given["answer"][:]


def test_the_fictional_world_can_use_its_perturbed_answers_and_its_templates_agree():
    forget = load_unlearning_data("fictional:tiny").forget  # one person: nobody to exchange answers with
    made_up = counterfactual_rows(forget, 0, "perturbed_answer")
    assert true_rows(forget, "perturbed_answer")["completion"][:] == forget["paraphrased_answer"][:]
    assert len(set(zip(made_up["fact_id"], made_up["completion"], strict=True))) == len(set(forget["fact_id"])) == 7
    assert all(text in row["perturbed_answer"] for row, text in zip(forget, made_up["completion"], strict=True))
    with pytest.raises(InputError, match=r"attribute 'birth_date': 1 facts with 1 different .+'perturbed_answer'"):
        counterfactual_rows(forget, 0)


def test_every_format_with_a_question_is_encoded_as_it_was():
    messages = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in (("A", "1"), ("B", "2"))
    ]
    formats = (
        Dataset.from_list([{"messages": chat} for chat in messages]),
        rows(("A", "1"), ("B", "2"), columns=("prompt", "completion")),
        rows(("A", "1"), ("B", "2")),
    )
    for dataset in formats:
        sides = true_rows(dataset), counterfactual_rows(dataset, 0)
        assert [side["completion"][:] for side in sides] == [["1", "2"], ["2", "1"]]
        assert [chat[0]["content"] for chat in sides[1]["prompt"]] == ["A", "B"]
    given = qa_rows(12)
    assert encode_dataset(true_rows(given), tiny_tokenizer(), None, "rows") == encoded_rows(12)


def test_errors_of_rows():
    with pytest.raises(
        InputError, match=r"group_by='kind' is not a column of the forget set; choose one of question, "
    ):
        counterfactual_rows(rows(("A?", "1"), ("B?", "2")), 0, "kind")
    with pytest.raises(InputError, match="plain text has no question"):
        counterfactual_rows(Dataset.from_list([{"text": "a"}, {"text": "b"}]), 0)
    with pytest.raises(InputError, match=r"the forget set: 3 facts with 2 different answers cannot be .+ more facts"):
        counterfactual_rows(rows(("A?", "1"), ("B?", "1"), ("C?", "2")), 0)
    with pytest.raises(InputError, match=r"row 1: fact 'a' has attribute 'y' here and attribute 'x' before; group by"):
        counterfactual_rows(rows(("A?", "1", "a", "x"), ("A!", "1", "a", "y")), 0)
    for empty in ([], ["1"], None):
        with pytest.raises(InputError, match=r"row 1: 'perturbed_answer' holds no wrong answer; fill it"):
            counterfactual_rows(
                rows(("A?", "1", ["2"]), ("B?", "1", empty), columns=("question", "answer", "perturbed_answer")), 0
            )


# ---- the statistics --------------------------------------------------------------------------------------------------


def test_excess_is_the_mean_over_pairs_and_scored_facts():
    missing = np.nan
    true = np.array([[1.0, 0.5, missing], [missing, 0.5, 0.9]])
    made_up = np.array([[[0.0, 0.5, missing], [missing, 0.1, 0.9]], [[0.2, 0.5, missing], [missing, 0.5, 0.3]]])
    found = _excess(true, made_up, np.arange(3))
    # Differences: 1, 0, 0.4, 0 and 0.8, 0, 0, 0.6: 2.8 over eight.
    assert found["excess"] == pytest.approx(0.35)
    assert found["recovered"] == pytest.approx(5.8 / 8) and found["recovered_counterfactual"] == pytest.approx(3.0 / 8)
    # Sums of the facts: 1.8, 0.4, 0.6, all positive: one of eight sign patterns reaches 2.8.
    assert found["p_value"] == pytest.approx(1 / 8)


def test_p_value_counts_facts_and_not_runs():
    """Four facts: 1/16, however often they are attacked."""
    for runs, derangements in ((1, 1), (5, 4)):
        found = _excess(np.ones((runs, 4)), np.zeros((derangements, runs, 4)), np.arange(4))
        assert (found["excess"], found["interval"], found["p_value"]) == (1.0, [1.0, 1.0], pytest.approx(1 / 16))
    worse = _excess(np.zeros((1, 4)), np.ones((1, 1, 4)), np.arange(4))
    assert (worse["excess"], worse["p_value"]) == (-1.0, 1.0)  # the true answers are avoided
    assert _excess(np.zeros((1, 4)), np.zeros((1, 1, 4)), np.arange(4))["p_value"] == 1.0


def test_interval_draws_units_seeds_and_derangements():
    """Variation of one factor alone; two drawn of two are both the lower with probability 1/4, over 2.5 %."""
    flat = np.zeros((2, 2, 4))
    by_fact = np.array([[0.0, 0.0, 1.0, 1.0]] * 2)
    assert _excess(by_fact, flat, np.array([0, 0, 1, 1]))["interval"] == [0.0, 1.0]
    assert _excess(by_fact, flat, np.array([0, 1, 0, 1]))["interval"] == [0.5, 0.5]
    by_seed = np.array([[0.0] * 4, [1.0] * 4])
    assert _excess(by_seed, flat, np.zeros(4, dtype=int))["interval"] == [0.0, 1.0]
    by_derangement = -np.array([[[0.0] * 4] * 2, [[1.0] * 4] * 2])
    assert _excess(np.zeros((2, 4)), by_derangement, np.zeros(4, dtype=int))["interval"] == [0.0, 1.0]


# ---- the control -----------------------------------------------------------------------------------------------------


def facts_about(names):
    given = [
        {**row, "attribute": row["fact_id"].split("/")[1], "person": row["fact_id"].split("/")[0]}
        for row in qa_rows(36)
    ]
    return Dataset.from_list([row for row in given if row["person"] in names])


FORGET, OTHERS = facts_about(NAMES[:6]), facts_about(NAMES[6:])


def taught(*datasets):
    model = tiny_model()
    encoded = [row for dataset in datasets for row in encode_dataset(dataset, tiny_tokenizer(), None, "rows")]
    finetune(model, encoded, learning_rate=5e-3, steps=60, batch_size=6, seed=0)
    return model


def control(model, budget=BUDGET, seeds=(0, 1), **options):
    return knowledge_excess(model, tiny_tokenizer(), FORGET, budget, seeds, **options)


def test_knowledge_is_found_in_who_has_it():
    outcome = control(taught(FORGET, OTHERS))
    for found in (outcome, outcome["excess_before"]):
        for name in ("probability", "exact_match"):
            assert found[name]["excess"] > 0.5 and found[name]["interval"][0] > 0.3 and found[name]["p_value"] < 0.001


@pytest.mark.parametrize("known", [(), (OTHERS,)], ids=["nothing", "other facts"])
def test_no_knowledge_is_found_in_who_never_had_it(known):
    outcome = control(taught(*known) if known else tiny_model())
    for found in (outcome, outcome["excess_before"]):
        for name in ("probability", "exact_match"):
            low, high = found[name]["interval"]
            assert low <= 0 <= high and found[name]["p_value"] > 0.05


def test_both_sides_are_attacked_alike(monkeypatch):
    attacked, real = [], counterfactual.adversarial_reinjection

    def spy(model, encoded, retain, budget, facts, title):
        attacked.append((model, encoded, retain, budget, facts))
        return real(model, encoded, retain, budget, facts, title)

    monkeypatch.setattr(counterfactual, "adversarial_reinjection", spy)
    model = tiny_model()
    outcome = control(model, seeds=(3, 5))
    sides = [true_rows(FORGET), counterfactual_rows(FORGET, 3), counterfactual_rows(FORGET, 5)]
    expected = [encode_dataset(side, tiny_tokenizer(), None, "rows") for side in sides]
    assert attacked == [(model, rows, [], BUDGET, FORGET["fact_id"][:]) for rows in expected]
    assert list(outcome["counterfactual"]) == ["3", "5"]
    for side in outcome["counterfactual"].values():
        for ours, theirs in zip(outcome["true"]["runs"], side["runs"], strict=True):
            assert ours["injected_rows"] == theirs["injected_rows"] and ours["seed"] == theirs["seed"]


def test_the_result_adds_up_and_is_json():
    outcome = json.loads(json.dumps(control(tiny_model())))
    assert (outcome["control"], outcome["resampled"]) == ("attribute", "person")
    assert [(pair["derangement_seed"], pair["seed"]) for pair in outcome["pairs"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    first = outcome["pairs"][0]["probability"]
    true, made_up = outcome["true"]["runs"][0], outcome["counterfactual"]["0"]["runs"][0]
    by_row = [
        true["value_by_index"][i]["probability"] - value["probability"]
        for i, value in made_up["value_by_index"].items()
    ]
    assert first == pytest.approx(sum(by_row) / len(by_row))
    mean = sum(pair["probability"] for pair in outcome["pairs"]) / 4
    assert outcome["probability"]["excess"] == pytest.approx(mean)
    before = [
        [value["probability"] for value in side["before_by_index"].values()]
        for side in (outcome["true"], outcome["counterfactual"]["1"])
    ]
    assert [len(values) for values in before] == [18, 18] and before[0] != before[1]


def test_equal_seeds_give_equal_results_and_others_do_not():
    budget = AttackBudget((1e-3,), 0.3, seeds=(0,), steps=2)
    first = control(tiny_model(), budget)
    assert control(tiny_model(), budget) == first
    assert control(tiny_model(), budget, seeds=(0, 7))["pairs"] != first["pairs"]


def test_the_strongest_attacker_and_learning_rate_of_each_side_count():
    budget = AttackBudget((1e-7, 1e-6), 0.3, (0,), 3, attackers=("full", "lora"), lora_learning_rates=(5e-2,), lora_r=2)
    outcome = control(tiny_model(), budget)
    true = outcome["true"]
    strongest = [
        run
        for run in true["runs"]
        if (run["attacker"], run["learning_rate"]) == (true["attacker"], true["learning_rate"])
    ]
    assert true["attacker"] == "lora" and len(true["runs"]) == 3 and len(strongest) == 1
    values = [value["probability"] for value in strongest[0]["value_by_index"].values()]
    assert outcome["probability"]["recovered"] == pytest.approx(sum(values) / len(values))


def test_errors_before_anything_runs(monkeypatch):
    monkeypatch.setattr(counterfactual, "adversarial_reinjection", lambda *_: pytest.fail("attacked"))
    for seeds in ((), (1, 1)):
        with pytest.raises(InputError, match=r"derangement_seeds=.+ must be one or more different numbers"):
            control(None, seeds=seeds)
    with pytest.raises(InputError, match=r"template.+ is not a column"):
        control(None, group_by="template")
