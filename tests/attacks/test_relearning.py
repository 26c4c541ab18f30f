"""Relearning attacks: who is trained, who is scored, and what is left of the given model."""

import copy

import pytest
import torch
from builders import encoded_rows, qa_rows, tiny_model, with_trained_adapter
from peft import PeftModel

from llm_unlearn.attacks import relearning
from llm_unlearn.attacks.adversarial_reinjection import adversarial_reinjection
from llm_unlearn.attacks.benign_relearning import benign_relearning
from llm_unlearn.attacks.copies import attackable_copy
from llm_unlearn.attacks.curves import SCORES, steps_to_half, summarize_runs
from llm_unlearn.attacks.leave_one_group_out import leave_one_group_out
from llm_unlearn.attacks.relearning import AttackBudget, choose_left_out, forgotten_rows, split_facts
from llm_unlearn.attacks.retain_relearning import retain_relearning
from llm_unlearn.errors import InputError
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.models.scoring import score_answers

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
    with pytest.raises(InputError, match="at least one learning rate and one seed"):
        AttackBudget(attackers=("full", "lora"), lora_learning_rates=())
    for attackers in ((), ("full", "adapter")):
        with pytest.raises(InputError, match="choose from full, lora, at least one"):
            AttackBudget(attackers=attackers)
    for name in ("steps", "batch_size", "score_every", "lora_r", "left_out_groups", "micro_batch_size"):
        with pytest.raises(InputError, match=f"attack {name}=0 must be 1 or more"):
            AttackBudget(**{name: 0})
    with pytest.raises(InputError, match="benign relearning needs instruction rows, got none"):
        benign_relearning(tiny_model(), [], encoded_rows(2), encoded_rows(2, 20), BUDGET)
    with pytest.raises(InputError, match="retain relearning needs retain rows, got none"):
        retain_relearning(tiny_model(), [], encoded_rows(2), [], BUDGET)
    with pytest.raises(InputError, match=r"at least two groups .+ got 1: choose another column with leave_out_column"):
        choose_left_out(["a", "a"], 5)
    with pytest.raises(InputError, match=r"at least two forget facts .+ got 1"):
        reinjection(tiny_model(), pool=[2, 3])


def test_the_groups_left_out_are_spread_over_the_rows():
    groups = ["a", "a", "b", "c", "d", "d", "e"]
    assert choose_left_out(groups, 5) == choose_left_out(groups, 99) == ["a", "b", "c", "d", "e"]
    assert choose_left_out(groups, 2) == ["a", "c"] and choose_left_out(groups, 1) == ["a"]


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


@pytest.fixture
def trained(monkeypatch):
    """The rows of every relearning, which is left out."""
    found = []
    monkeypatch.setattr(relearning, "finetune", lambda model, rows, **options: found.append(rows))
    return found


def test_retain_relearning_trains_on_retain_rows_and_scores_every_forget_row(trained):
    retain = encoded_rows(8, 20)
    outcome = retain_relearning(tiny_model(), retain, encoded_rows(12), retain[::2], BUDGET)
    assert trained == [retain]
    run = outcome["runs"][0]
    assert run["injected_rows"] == [] and len(run["value_by_index"]) == 12
    scored = score_answers(tiny_model(), retain[::2])
    mean = sum(score.probability for score in scored) / 4
    assert run["curve"][0]["retain_probability"] == pytest.approx(mean, rel=1e-5)


def test_one_group_at_a_time_is_left_out_and_only_it_is_scored(trained):
    rows, model = encoded_rows(6), tiny_model()
    groups = ["x", "y", "x", "z", "y", "x"]
    outcome = leave_one_group_out(model, rows, [], AttackBudget((1e-3,), seeds=(0, 1), steps=1), groups)
    others = {"x": [1, 3, 4], "y": [0, 2, 3, 5], "z": [0, 1, 2, 4, 5]}
    assert trained == [[rows[i] for i in injected] for injected in others.values()] * 2
    assert [(run["seed"], run["group"]) for run in outcome["runs"]] == [(s, g) for s in (0, 1) for g in "xyz"]
    for run in outcome["runs"]:
        assert run["injected_rows"] == others[run["group"]]
        assert sorted([*run["injected_rows"], *map(int, run["value_by_index"])]) == list(range(6))
    assert {name: entry["rows"] for name, entry in outcome["groups"].items()} == {"x": 3, "y": 2, "z": 1}
    every_row = score_answers(model, rows)  # all groups are left out once: together they are all rows
    mean = sum(score.probability for score in every_row) / 6
    assert outcome["curve"][0]["forget_probability"] == pytest.approx(mean, rel=1e-5)


def test_a_fact_of_the_group_that_is_left_out_is_not_taught_as_one_of_another_group(trained):
    rows, budget = encoded_rows(5), AttackBudget((1e-3,), seeds=(0,), steps=1)
    groups, facts = ["x", "x", "y", "y", "z"], ["a", "b", "c", "a", "d"]
    outcome = leave_one_group_out(tiny_model(), rows, [], budget, groups, fact_ids=facts)
    assert [run["injected_rows"] for run in outcome["runs"]] == [[2, 4], [1, 4], [0, 1, 2, 3]]
    assert trained == [[rows[i] for i in run["injected_rows"]] for run in outcome["runs"]]
    with pytest.raises(InputError, match="the facts of group 'x' are those of all other groups"):
        leave_one_group_out(tiny_model(), rows[:2], [], budget, ["x", "y"], fact_ids=["a", "a"])


def test_only_the_pool_is_injected_and_scored(trained):
    facts = [fact for fact in "abcdef" for _ in range(2)]
    outcome = reinjection(tiny_model(), AttackBudget((1e-3,), 0.5, seeds=(0, 1, 2)), pool=[1, 4, 5, 10])
    for run, rows in zip(outcome["runs"], trained, strict=True):
        injected, scored = run["injected_rows"], [int(index) for index in run["value_by_index"]]
        assert sorted([*injected, *scored]) == [1, 4, 5, 10] and injected and scored
        assert {facts[i] for i in injected} & {facts[i] for i in scored} == set()
        assert rows == [encoded_rows(12)[i] for i in injected]


def test_forgotten_rows_are_those_answered_wrongly():
    model, rows = attackable_copy(tiny_model()), encoded_rows(6)
    assert forgotten_rows(model, rows) == [0, 1, 2, 3, 4, 5]
    finetune(model, [rows[1], rows[4]], learning_rate=5e-3, steps=60, batch_size=2, seed=0)
    assert forgotten_rows(model, rows) == [0, 2, 3, 5]


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


@pytest.mark.parametrize("adapted", [False, True])
def test_a_lora_attacker_trains_a_new_adapter_alone(adapted):
    model = with_trained_adapter(tiny_model()) if adapted else tiny_model()
    state = torch.get_rng_state()
    attacked = attackable_copy(model, lora_r=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    trainable = {name: p for name, p in attacked.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 2 * 7  # A and B, in two layers of seven linear maps
    assert all("lora" in name and 3 in p.shape for name, p in trainable.items())
    assert not any("lora" in name for name in attackable_copy(model).state_dict())
    ids = torch.tensor([encoded_rows(1)[0]["input_ids"]])
    torch.testing.assert_close(attacked(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    before = copy.deepcopy(attacked.state_dict())
    finetune(attacked, encoded_rows(4), learning_rate=1e-2, steps=2, batch_size=4, seed=0)
    changed = {name for name, value in attacked.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(trainable)


def test_both_attackers_have_their_own_learning_rates_and_the_strongest_counts():
    model = tiny_model()
    alone = reinjection(model)
    weak = {"attackers": ("full", "lora"), "lora_learning_rates": (1e-6, 1e-5)}
    both = reinjection(model, AttackBudget(**vars(BUDGET) | weak))
    choices = [("full", 5e-3), ("lora", 1e-6), ("lora", 1e-5)]
    assert [(run["attacker"], run["learning_rate"]) for run in both["runs"]] == choices
    assert both | {"runs": both["runs"][:1]} == alone  # another attacker changes no other's run
    strong = {"learning_rates": (1e-9,), "attackers": ("full", "lora"), "lora_learning_rates": (3e-2,), "steps": 30}
    both = reinjection(model, AttackBudget(**vars(BUDGET) | strong))
    assert (both["attacker"], both["learning_rate"]) == ("lora", 3e-2)
    assert both["curve"] == both["runs"][1]["curve"]


def test_the_lora_attacker_gets_an_adapter_of_its_rank_and_seed(monkeypatch):
    attacked = []
    monkeypatch.setattr(relearning, "finetune", lambda model, rows, **options: attacked.append(model))
    reinjection(tiny_model(), AttackBudget(attackers=("full", "lora"), lora_r=3, seeds=(0, 1)))
    assert [isinstance(model, PeftModel) for model in attacked] == [False, False, True, True]
    for seed, model in enumerate(attacked[2:]):
        expected = attackable_copy(tiny_model(), 3, seed).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_the_seed_decides_the_adapter():
    first, again, other = (attackable_copy(tiny_model(), 4, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


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


# ---- sample texts ----------------------------------------------------------------------------------------------------


def test_texts_of_the_first_run_of_every_choice_after_its_last_step():
    asked = []

    def answer(attacked, rows):
        asked.append((attacked, rows))
        return [f"text {row}" for row in rows]

    budget = AttackBudget(**vars(BUDGET) | {"learning_rates": (5e-3, 1e-3), "seeds": (0, 1)})
    outcome = reinjection(tiny_model(), budget, answer=answer)
    plain = reinjection(tiny_model(), budget)
    assert [run.pop("answers", None) is not None for run in outcome["runs"]] == [True, False, True, False]
    assert outcome == plain  # nothing else changes
    for (attacked, rows), run in zip(asked, (outcome["runs"][0], outcome["runs"][2]), strict=True):
        assert rows == [int(row) for row in run["value_by_index"]]  # six are scored, and all of them asked
        after = score_answers(attacked, [encoded_rows(12)[row] for row in rows])
        last = run["curve"][-1]["forget_probability"]
        assert sum(score.probability for score in after) / 6 == pytest.approx(last, rel=1e-5)


def test_texts_of_few_rows_evenly_spread(trained):
    budget = AttackBudget((1e-3,), seeds=(0,), steps=7)

    def answer(_attacked, rows):
        return [f"text {row}" for row in rows]

    run = benign_relearning(tiny_model(), encoded_rows(2), encoded_rows(12), [], budget, answer=answer)["runs"][0]
    expected = {str(row): f"text {row}" for row in (0, 2, 4, 6, 8, 10)}
    assert run["answers"] == {"step": 7, "by_index": expected}
    rows = encoded_rows(4, 20)
    run = retain_relearning(tiny_model(), rows, encoded_rows(2), [], budget, answer=answer)["runs"][0]
    assert run["answers"]["by_index"] == {"0": "text 0", "1": "text 1"}


def test_texts_of_the_first_group_that_is_left_out(trained):
    budget = AttackBudget((1e-3,), seeds=(0, 1), steps=1)
    groups = ["x", "y", "x", "y"]
    outcome = leave_one_group_out(
        tiny_model(), encoded_rows(4), [], budget, groups, answer=lambda _attacked, rows: ["text"] * len(rows)
    )
    assert [list(run.get("answers", {}).get("by_index", ())) for run in outcome["runs"]] == [["0", "2"], [], [], []]


# ---- the summary -----------------------------------------------------------------------------------------------------


def run(learning_rate, *points, attacker="full", **more):
    curve = [{"step": 10 * i} | dict(zip(SCORES, point, strict=False)) for i, point in enumerate(points)]
    return {"attacker": attacker, "learning_rate": learning_rate, "seed": 0, "curve": curve, **more}


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
    assert summary["runs"] is runs and summary["attacker"] == "full" and "groups" not in summary


def test_attackers_with_the_same_learning_rate_are_not_averaged():
    runs = [run(1e-4, (0.0, 0.1), (0.0, 0.3)), run(1e-4, (0.0, 0.1), (0.5, 0.7), attacker="lora")]
    summary = summarize_runs(runs)
    assert (summary["attacker"], summary["learning_rate"]) == ("lora", 1e-4)
    assert [point["forget_probability"] for point in summary["curve"]] == [0.1, 0.7]


def test_groups_are_pooled_by_their_rows_and_told_apart():
    one, three = {"0": {}}, {"1": {}, "2": {}, "3": {}}
    runs = [
        run(1e-4, (0.0, 0.2), (1.0, 0.8), group="a", value_by_index=one),
        run(1e-4, (0.0, 0.4), (0.0, 0.0), group="b", value_by_index=three),
        run(1e-4, (0.0, 0.2), (0.0, 0.4), group="a", value_by_index=one),
        run(1e-4, (0.0, 0.4), (0.0, 0.8), group="b", value_by_index=three),
        run(1e-5, (0.0, 0.1), (0.0, 0.1), group="a", value_by_index=one),
        run(1e-5, (0.0, 0.1), (0.0, 0.1), group="b", value_by_index=three),
    ]
    summary = summarize_runs(runs)
    pooled = [point["forget_probability"] for point in summary["curve"]]
    assert pooled == pytest.approx([0.35, 0.45])  # (1 x 0.2 + 3 x 0.4) / 4 and (1 x 0.6 + 3 x 0.4) / 4
    assert summary["forget_exact_match"] == pytest.approx(0.125)  # (1 x 0.5 + 3 x 0) / 4
    a, b = summary["groups"]["a"], summary["groups"]["b"]
    assert (a["rows"], b["rows"]) == (1, 3)
    assert [a[name] for name in SCORES[:2]] == pytest.approx([0.5, 0.6])
    assert [b[name] for name in SCORES[:2]] == pytest.approx([0.0, 0.4])


@pytest.mark.parametrize(
    ("original", "expected"), [(0.2, 0), (0.6, 10), (0.62, 20), (0.8, 20), (0.81, None), (None, None)]
)
def test_steps_to_half(original, expected):
    curve = run(1e-4, (0.0, 0.1), (0.0, 0.3), (0.0, 0.4), (0.0, 0.35))["curve"]
    assert steps_to_half(curve, original) == expected


def test_qa_rows_have_as_many_facts_as_rows():
    assert len(set(qa_rows(36)["fact_id"])) == len(set(qa_rows(36)["question"])) == 36
