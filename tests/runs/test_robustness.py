"""How learning rates are chosen and runs are shared; the benchmark itself runs in tests/end_to_end."""

import os
from types import SimpleNamespace

import pytest
from builders import qa_rows, tiny_model, tiny_tokenizer

from llm_unlearn.arguments.groups import AdapterArguments, DataArguments
from llm_unlearn.errors import InputError
from llm_unlearn.examining.price import lowest_of_means, reference_abilities
from llm_unlearn.runs.compared_methods import controlled, method_of, trained_as, trainer_of
from llm_unlearn.runs.robustness import (
    RobustnessArguments,
    mean_abilities,
    most_robust,
    nearest_steps,
    next_rate,
)
from llm_unlearn.runs.sharing import become_worker


def tried(steps, reached=1.0, retain=1.0, recovered=0.5, lowest=None) -> dict:
    found = {"steps": steps, "reached": reached, "retain_exact_match": retain, "reinjection_probability": recovered}
    return found | {"lowest_share": lowest, "lowest_ability": None if lowest is None else "retain_reversed"}


def test_the_rate_that_recovers_least_of_those_that_keep_every_ability():
    rates = {
        1e-4: tried(480, reached=0.0, recovered=0.1, lowest=1.0),  # has not stopped
        3e-4: tried(300, recovered=0.7, lowest=0.99),
        1e-3: tried(100, recovered=0.6, lowest=0.95, retain=0.5),  # abilities count, not the retained facts alone
        3e-3: tried(20, recovered=0.4, lowest=0.94),  # has lost too much
    }
    assert most_robust(rates, 1.0) == {
        "learning_rate": 1e-3,
        "steps": 100,
        "why": "recovers least of those that keep every ability",
    }


def test_where_every_rate_costs_an_ability_the_one_that_keeps_most_of_it():
    rates = {1e-4: tried(100, lowest=0.3), 1e-3: tried(20, lowest=0.6), 1e-5: tried(480, reached=0.0, lowest=1.0)}
    assert most_robust(rates, 1.0) == {
        "learning_rate": 1e-3,
        "steps": 20,
        "why": "keeps most of the ability that loses most (retained facts, in reverse, 60 %)",
    }
    never = {rate: found | {"reached": 0.0} for rate, found in rates.items()}
    assert most_robust(never, 1.0)["learning_rate"] == 1e-5
    assert most_robust(never, 1.0)["why"].endswith(
        "(retained facts, in reverse, 100 %); none reaches the stopping score"
    )


def test_abilities_are_averaged_over_tuning_seeds_before_the_lowest_is_taken():
    first = {"general": {"exact_match": 0.8, "probability": 0.6, "rows": 9}, "retain": {"exact_match": 0.5, "rows": 9}}
    second = {"general": {"exact_match": 0.4, "probability": 0.8, "rows": 9}, "retain": {"exact_match": 0.9, "rows": 9}}
    means = mean_abilities([first, second])
    assert means["general"] == pytest.approx({"exact_match": 0.6, "probability": 0.7, "rows": 9})
    measured = {
        "original": {"general": {"exact_match": 1.0, "probability": 0.9}, "retain": {"exact_match": 1.0}},
        "oracle": {"general": {"exact_match": 0.6, "probability": 0.9}, "retain": {"exact_match": 0.8}},
        "oracle_1": {"general": {"exact_match": 0.8, "probability": 1.0}, "retain": {"exact_match": 1.0}},
    }
    references = reference_abilities(measured)
    assert references == {"general": {"exact_match": 0.6, "probability": 0.9}, "retain": {"exact_match": 0.8}}
    # 0.6 / 0.6 and 0.7 / 0.9 of general facts, 0.7 / 0.8 of retained ones
    assert lowest_of_means(means, references) == ("general", pytest.approx(7 / 9))
    assert lowest_of_means(mean_abilities([first, {}]), references) is None  # an older version left it unfinished
    cannot = {"original": {"two_hop": {"exact_match": 0.05}}, "unlearned": {"two_hop": {"exact_match": 0.0}}}
    assert reference_abilities(cannot) == {}  # nothing to lose


def test_without_abilities_the_retained_facts_must_be_kept():
    rates = {
        1e-4: tried(480, reached=0.0, recovered=0.1),  # has not stopped
        3e-4: tried(300, recovered=0.7),
        1e-3: tried(100, recovered=0.6),
        3e-3: tried(20, retain=0.94, recovered=0.4),  # has lost too much
    }
    assert most_robust(rates, 1.0)["learning_rate"] == 1e-3
    assert most_robust(rates, 0.98)["learning_rate"] == 3e-3  # 0.95 of what the original has
    assert most_robust(rates, None)["learning_rate"] == 3e-3  # without retain rows there is nothing to lose


def test_without_a_rate_that_keeps_them_the_one_that_keeps_most():
    rates = {1e-4: tried(100, retain=0.5), 1e-3: tried(20, retain=0.3), 1e-5: tried(480, reached=0.0, retain=0.9)}
    assert most_robust(rates, 1.0)["learning_rate"] == 1e-4
    never = {rate: found | {"reached": 0.5} for rate, found in rates.items()}
    assert most_robust(never, 1.0) == {
        "learning_rate": 1e-5,
        "steps": 480,
        "why": "keeps most of the retained facts; none reaches the stopping score",
    }


def test_equal_steps_are_searched_between_the_rates_that_are_known():
    # steps ~ 1 / rate: 100 at 1e-4 and 10 at 1e-3, so about 31.6 where the logarithms meet
    assert next_rate({1e-4: 100, 1e-3: 10}, 31.6) == pytest.approx(3.2e-4)
    assert next_rate({1e-4: 100, 1e-3: 10}, 95) is None  # within 15 %
    assert next_rate({1e-4: 100, 1e-3: 10}, 200) == pytest.approx(5e-5)  # slower than all
    assert next_rate({1e-4: 100, 1e-3: 10}, 5) == pytest.approx(2e-3)
    assert nearest_steps({1e-4: tried(100), 1e-3: tried(10), 3e-4: tried(33, reached=0.0)}, 35)["learning_rate"] == 1e-4


def test_a_name_may_fix_fields_of_its_configuration():
    method = method_of("ssiuu:regularizer_weight=30,layers=1,variant=exact")
    assert method.fixed == {"backbone": "npo", "regularizer_weight": 30.0, "layers": [1], "variant": "exact"}
    assert method_of("ssiuu:regularizer_weight=auto").fixed["regularizer_weight"] == "auto"
    assert method_of("ssiuu").fixed == {"backbone": "npo"}
    assert trained_as("npo_equal_steps") == "npo" and trained_as("ssiuu:beta=1") == "ssiuu:beta=1"
    RobustnessArguments(methods=["ssiuu", "ssiuu:beta=1", "npo"])


def test_a_control_is_one_of_the_method_with_the_same_fields():
    methods = ["ssiuu", "ssiuu:beta=1", "ssiuu_shuffled", "ssiuu_shuffled:beta=1", "ssiuu_shuffled:beta=2"]
    assert [controlled(name, methods) for name in methods] == [None, None, "ssiuu", "ssiuu:beta=1", "ssiuu"]


@pytest.mark.parametrize(("name", "weight"), [("npo", 1.0), ("npo:general_weight=0", 0.0), ("gradient_ascent", 0.0)])
def test_methods_have_general_rows_unless_their_name_says_otherwise(name, weight, tmp_path):
    sets = {"trained_forget": qa_rows(4), "retain": qa_rows(4, 20), "trained_general": qa_rows(4, 8)}
    method, data = method_of(name), SimpleNamespace(**sets)
    models = {"load_model": lambda path: tiny_model(), "processing_class": tiny_tokenizer()}
    examination = SimpleNamespace(data=data, data_args=DataArguments(), **models)
    config = method.method.config(output_dir=str(tmp_path), use_cpu=True, **method.fixed)
    trainer = trainer_of(method, config, AdapterArguments(), examination, "model")
    assert config.general_weight == weight and bool(trainer.row_sets["general"]) is (weight > 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ["ssiuu:bet=1"]}, "unknown field bet in --methods ssiuu:bet=1; did you mean beta"),
        ({"methods": ["npo:seed=1"]}, "seed in 'npo:seed=1' is set for all methods alike; use --seeds"),
        ({"methods": ["ssiuu:beta"]}, "'ssiuu:beta' has 'beta' where field=value is wanted"),
        ({"methods": ["ssiuu:beta=x"]}, "beta: 'x' in --methods ssiuu:beta=x is not valid; give a number"),
        ({"methods": ["ascent"]}, "'ascent' is unknown; choose from altpo, ce_u, cmf, counterfactual"),
        ({"methods": ["npo", "npo_equal_steps"]}, "npo_equal_steps takes the steps of ssiuu, which is not among them"),
        ({"seeds": [1, 2], "tuning_seeds": [2]}, "2 is a tuning seed, too"),
        ({"seeds": []}, r"seeds=\[\] must be one or more"),
        ({"learning_rates": [1e-4, 1e-4]}, "each of them once"),
    ],
)
def test_errors(values, message):
    with pytest.raises(ValueError, match=message):
        RobustnessArguments(**values)


def test_processes_of_a_launcher_become_workers(monkeypatch):
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4"), ("CUDA_VISIBLE_DEVICES", "4,6")):
        monkeypatch.setenv(name, value)
    assert become_worker() == 3
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & set(os.environ)
    assert become_worker() == 0
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="FSDP: each process trains alone here"):
        become_worker()
