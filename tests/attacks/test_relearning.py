"""Relearning attacks: who is trained, who is scored, and what is left of the given model."""

import copy

import pytest
import torch
from builders import encoded_rows, qa_rows, tiny_model, with_trained_adapter
from peft import PeftModel

from llm_unlearn.attacks import AttackBudget, adversarial_reinjection, benign_relearning, relearning, split_facts
from llm_unlearn.attacks.relearning import SCORES, attackable_copy, summarize_runs
from llm_unlearn.errors import InputError
from llm_unlearn.finetuning import finetune
from llm_unlearn.scoring import score_answers

FACTS = ["a", "b", "a", "c", "b", "a", "d", "e", "d", "f"]
BUDGET = AttackBudget(learning_rates=(5e-3,), fraction=0.5, seeds=(0,), steps=5, batch_size=2, score_every=2)


# ---- which facts are injected ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_no_fact_is_on_both_sides_and_no_row_is_lost(seed):
    injected, scored = split_facts(FACTS, 0.34, seed)
    assert sorted([*injected, *scored]) == list(range(10))
    assert {FACTS[i] for i in injected} & {FACTS[i] for i in scored} == set()
    assert len({FACTS[i] for i in injected}) == 2  # a third of six facts, whatever their number of rows


def test_the_split_is_a_function_of_its_seed():
    splits = [split_facts(FACTS, 0.5, seed) for seed in range(6)]
    assert splits == [split_facts(FACTS, 0.5, seed) for seed in range(6)]
    assert len({tuple(injected) for injected, _ in splits}) > 1


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 1), (0.3, 3), (0.5, 5), (0.99, 9)])
def test_something_is_always_injected_and_something_always_scored(fraction, count):
    injected, scored = split_facts(list(range(10)), fraction, seed=0)
    assert (len(injected), len(scored)) == (count, 10 - count)


def test_errors():
    with pytest.raises(InputError, match=r"at least two forget facts .+ got 1"):
        split_facts(["a", "a"], 0.5, seed=0)
    for fraction in (0, 1, float("nan")):
        with pytest.raises(InputError, match=f"attack fraction={fraction} must lie between 0 and 1"):
            AttackBudget(fraction=fraction)
    with pytest.raises(InputError, match="at least one learning rate and one seed"):
        AttackBudget(seeds=())
    with pytest.raises(InputError, match="at least one learning rate and one seed"):
        AttackBudget(learning_rates=())
    for name in ("steps", "batch_size", "score_every"):
        with pytest.raises(InputError, match=f"attack {name}=0 must be 1 or more"):
            AttackBudget(**{name: 0})
    with pytest.raises(InputError, match="benign relearning needs instruction rows, got none"):
        benign_relearning(tiny_model(), [], encoded_rows(2), encoded_rows(2, 20), BUDGET)


# ---- the attacks -----------------------------------------------------------------------------------------------------


def reinjection(model, budget=BUDGET, **options):
    facts = [fact for fact in "abcdef" for _ in range(2)]
    return adversarial_reinjection(
        model, encoded_rows(12), encoded_rows(4, 20), budget, **{"fact_ids": facts} | options
    )


def test_the_curve_starts_before_the_first_step_and_ends_after_the_last():
    model = tiny_model()
    outcome = reinjection(model)
    assert [point["step"] for point in outcome["curve"]] == [0, 2, 4, 5]
    scored = [i for i in range(12) if i not in outcome["runs"][0]["injected_rows"]]
    before = score_answers(model, [encoded_rows(12)[i] for i in scored])
    start = outcome["curve"][0]
    assert start["forget_probability"] == pytest.approx(sum(s.probability for s in before) / 6, rel=1e-5)
    before = score_answers(model, encoded_rows(4, 20))
    assert start["retain_probability"] == pytest.approx(sum(s.probability for s in before) / 4, rel=1e-5)
    assert outcome["curve"][-1]["forget_probability"] != start["forget_probability"]


def test_injected_rows_are_trained_and_never_scored(monkeypatch):
    trained, rows = [], encoded_rows(12)
    real = relearning.finetune
    monkeypatch.setattr(relearning, "finetune", lambda m, r, **options: (trained.append(r), real(m, r, **options)))
    outcome = reinjection(tiny_model(), AttackBudget((1e-3,), 0.5, seeds=(0, 1, 2), steps=1))
    assert len(outcome["runs"]) == len(trained) == 3
    for run, training_rows in zip(outcome["runs"], trained, strict=True):
        injected, scored = run["injected_rows"], [int(index) for index in run["value_by_index"]]
        assert training_rows == [rows[i] for i in injected]
        assert sorted([*injected, *scored]) == list(range(12))
        assert {i // 2 for i in injected} & {i // 2 for i in scored} == set()  # two rows a fact


def test_reinjection_brings_the_injected_rows_back_and_is_full_finetuning():
    """What is injected is learned: the attack works at all."""
    model, rows = tiny_model(), encoded_rows(12)
    attacked = attackable_copy(model)
    injected, _ = split_facts(range(12), 0.5, seed=0)
    finetune(attacked, [rows[i] for i in injected], learning_rate=5e-3, steps=60, batch_size=6, seed=0)
    assert all(score.exact_match for score in score_answers(attacked, [rows[i] for i in injected]))
    for before, after in zip(model.parameters(), attacked.parameters(), strict=True):
        assert not torch.equal(before, after)


def test_benign_relearning_trains_on_instructions_and_scores_every_forget_row(monkeypatch):
    trained = []
    monkeypatch.setattr(relearning, "finetune", lambda model, rows, **options: trained.append((rows, options["seed"])))
    instructions = encoded_rows(3, 30)
    outcome = benign_relearning(
        tiny_model(),
        instructions,
        encoded_rows(12),
        encoded_rows(4, 20),
        AttackBudget((1e-3, 1e-4), seeds=(7, 8)),
    )
    assert trained == [(instructions, 7), (instructions, 8)] * 2
    assert [(run["learning_rate"], run["seed"]) for run in outcome["runs"]] == [
        (1e-3, 7),
        (1e-3, 8),
        (1e-4, 7),
        (1e-4, 8),
    ]
    assert all(run["injected_rows"] == [] and len(run["value_by_index"]) == 12 for run in outcome["runs"])


@pytest.mark.parametrize("adapted", [False, True])
def test_the_given_model_is_not_changed(adapted):
    model = with_trained_adapter(tiny_model()) if adapted else tiny_model()
    before = copy.deepcopy(model.state_dict())
    flags = [parameter.requires_grad for parameter in model.parameters()]
    reinjection(model)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(before[name], after[name]) for name in before)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert isinstance(model, PeftModel) is adapted


def test_an_adapter_is_merged_and_every_weight_attacked():
    adapted = with_trained_adapter(tiny_model())
    attacked = attackable_copy(adapted)
    assert not isinstance(attacked, PeftModel)
    assert all(p.requires_grad and "lora" not in name for name, p in attacked.named_parameters())
    ids = torch.tensor([encoded_rows(1)[0]["input_ids"]])
    torch.testing.assert_close(attacked(input_ids=ids).logits, adapted(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_equal_seeds_give_equal_curves_and_others_do_not():
    model = tiny_model()
    first = reinjection(model)
    torch.manual_seed(123)
    assert reinjection(model) == first
    other = reinjection(model, AttackBudget((5e-3,), 0.5, seeds=(1,), steps=5, batch_size=2, score_every=2))
    assert other["curve"] != first["curve"]


def test_every_run_starts_from_the_given_model():
    model = tiny_model()
    both = reinjection(model, AttackBudget((5e-3, 1e-3), 0.5, seeds=(0, 1), steps=3, batch_size=2))
    alone = reinjection(model, AttackBudget((1e-3,), 0.5, seeds=(1,), steps=3, batch_size=2))
    assert both["runs"][3] == alone["runs"][0]


def test_rows_without_fact_ids_are_facts_of_their_own():
    outcome = reinjection(tiny_model(), AttackBudget((1e-3,), 0.25, seeds=(0,), steps=1), fact_ids=None)
    assert len(outcome["runs"][0]["injected_rows"]) == 3


def test_value_by_index_holds_the_rows_at_the_best_step():
    run = reinjection(tiny_model())["runs"][0]
    best = max(run["curve"], key=lambda point: point["forget_probability"])
    assert run["best_step"] == best["step"]
    values = run["value_by_index"].values()
    assert sum(v["probability"] for v in values) / 6 == pytest.approx(best["forget_probability"])
    assert sum(v["exact_match"] for v in values) / 6 == pytest.approx(best["forget_exact_match"])


# ---- the summary -----------------------------------------------------------------------------------------------------


def run(learning_rate, *points):
    curve = [{"step": 10 * i} | dict(zip(SCORES, point, strict=True)) for i, point in enumerate(points)]
    return {"learning_rate": learning_rate, "seed": 0, "curve": curve}


def test_summary_is_the_maximum_along_the_mean_curve_at_the_strongest_learning_rate():
    runs = [
        run(1e-4, (0.0, 0.1, 1.0, 0.9), (0.4, 0.3, 0.8, 0.7), (0.2, 0.4, 0.5, 0.5)),
        run(1e-4, (0.0, 0.1, 1.0, 0.9), (0.0, 0.5, 0.6, 0.7), (0.6, 0.2, 0.5, 0.5)),
        run(1e-5, (0.9, 0.1, 1.0, 0.9), (0.9, 0.35, 0.9, 0.9), (0.9, 0.35, 0.9, 0.9)),
    ]
    summary = summarize_runs(runs)
    assert summary["learning_rate"] == 1e-4  # mean forget probability 0.4 at step 10; 1e-5 reaches 0.35
    assert [point["step"] for point in summary["curve"]] == [0, 10, 20]
    means = [[point[name] for name in SCORES] for point in summary["curve"]]
    expected = [[0.0, 0.1, 1.0, 0.9], [0.2, 0.4, 0.7, 0.7], [0.4, 0.3, 0.5, 0.5]]
    assert means == [pytest.approx(row) for row in expected]
    maxima = {
        "forget_exact_match": 0.4,
        "forget_probability": 0.4,
        "retain_exact_match": 1.0,
        "retain_probability": 0.9,
    }
    assert {name: summary[name] for name in SCORES} == pytest.approx(maxima)
    assert summary["runs"] is runs


def test_qa_rows_have_as_many_facts_as_rows():
    assert len(set(qa_rows(36)["fact_id"])) == len(set(qa_rows(36)["question"])) == 36
