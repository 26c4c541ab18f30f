"""What is tried of a method, by hand: its space, draws without repetition, and settings as names."""

from types import SimpleNamespace

import pytest

from llm_unlearn.arguments.groups import DataArguments
from llm_unlearn.errors import InputError
from llm_unlearn.runs import search_space
from llm_unlearn.runs.compared_methods import method_of
from llm_unlearn.runs.search_space import Space, named, space_of
from llm_unlearn.runs.tuning_plan import TuningConfig

COMMON = ([1e-4, 1e-3], [1.0, 4.0])  # learning rates, factors of the forget weight


def space(name, tmp_path, data="fictional:tiny", full=False, model=None, **shared):
    config = TuningConfig(output_dir=str(tmp_path), use_cpu=True, learning_rate=2e-4, **shared)
    return space_of(name, config, DataArguments(model_name_or_path=model, data=data), full, *COMMON)


def test_all_combinations_with_the_defaults_first():
    values = {"learning_rate": (1, 2), "beta": (3, 4)}
    assert Space(values, {"learning_rate": 2, "beta": 3}).settings == [
        {"learning_rate": 2, "beta": 3},
        {"learning_rate": 1, "beta": 3},
        {"learning_rate": 1, "beta": 4},
        {"learning_rate": 2, "beta": 4},
    ]
    assert len(Space(values, {"learning_rate": 9, "beta": 3}).settings) == 5  # the defaults are none of them
    assert Space({}, {}).settings == [{}]


def test_draws_repeat_nothing_and_depend_on_seed_and_name_alone():
    one = Space({"learning_rate": tuple(range(5)), "beta": tuple(range(6))}, {"learning_rate": 2, "beta": 2})
    drawn = one.draw(8, 0, "npo")
    assert drawn[0] == one.defaults and len({tuple(setting.values()) for setting in drawn}) == 8
    assert one.draw(8, 0, "npo") == drawn and one.draw(12, 0, "npo")[:8] == drawn
    assert one.draw(8, 1, "npo")[0] == one.defaults and one.draw(8, 1, "npo") != drawn != one.draw(8, 0, "dpo")
    assert [tuple(setting.values()) for setting in drawn[:3]] == [(2, 2), (3, 3), (0, 2)]  # on every machine
    everything = one.draw(99, 0, "npo")
    assert len(everything) == len(one.settings) == 30 and all(setting in everything for setting in one.settings)


def test_a_space_is_that_of_the_record_beside_what_all_methods_share(tmp_path):
    npo = space("npo", tmp_path)
    assert npo.values == {"learning_rate": (1e-4, 1e-3), "forget_weight": (1.0, 4.0), "beta": (0.1, 0.5, 1.0)}
    assert npo.defaults == {"learning_rate": 3e-4, "forget_weight": 1.0, "beta": 0.5}  # of `llm-unlearn run npo`
    assert len(npo.settings) == 13
    assert space("npo:beta=2,learning_rate=1", tmp_path).values == {"forget_weight": (1.0, 4.0)}
    assert space("simnpo", tmp_path).values["forget_weight"] == (10.0, 40.0)  # its own is 10 in embedded worlds
    assert space("retain_only", tmp_path).values == {"learning_rate": (1e-4, 1e-3)}  # nothing is forgotten
    # gradient ascent is compared without any other rows, beside which a weight would weigh something
    assert space("gradient_ascent", tmp_path).values == {"learning_rate": (1e-4, 1e-3)}
    assert space("gradient_ascent", tmp_path).defaults == {"learning_rate": 1e-3}
    assert space("gradient_ascent", tmp_path, full=True).defaults == {"learning_rate": 1e-4}
    assert space("ssiuu", tmp_path).defaults == {
        "learning_rate": 3e-4,
        "forget_weight": 1.0,
        "regularizer_weight": 3.0,
    }
    task_vector = space("task_vector", tmp_path)  # its form fixes the epochs of its default; they are searched
    assert task_vector.values["num_train_epochs"] == (5, 20) and task_vector.defaults["num_train_epochs"] == 10


def test_defaults_are_those_of_the_world_or_of_the_flags(tmp_path):
    sentences = space("ssiuu", tmp_path, data="fictional:smollm2")
    assert sentences.defaults == {"learning_rate": 5e-4, "forget_weight": 1.0, "regularizer_weight": 3.0}
    other = space("npo", tmp_path, model="somebody/model")
    assert other.defaults == {"learning_rate": 2e-4, "forget_weight": 1.0, "beta": 0.1}
    # without a default of its own, PDU begins with the first value
    assert space("pdu", tmp_path, model="somebody/model").defaults["epsilon"] == 0.02


def test_the_world_in_sentences_has_its_own_loss_unit_in_benchmarks_too(tmp_path):
    config = TuningConfig(output_dir=str(tmp_path), use_cpu=True)
    units = {
        data: method_of("npo").configured(config, DataArguments(data=data)).forget_loss_unit
        for data in ("fictional:tiny", "fictional:smollm2")
    }
    assert units == {"fictional:tiny": "answer", "fictional:smollm2": "token"}


def test_a_setting_is_a_name_that_benchmarks_take():
    name = named("ssiuu:beta=1", {"learning_rate": 3e-05, "layers": [1], "regularizer_weight": "auto"})
    assert name == "ssiuu:beta=1,learning_rate=3e-05,layers=1,regularizer_weight=auto"
    fixed = {"backbone": "npo", "beta": 1.0, "learning_rate": 3e-5, "layers": [1], "regularizer_weight": "auto"}
    assert method_of(name).fixed == fixed
    assert named("npo", {}) == "npo" and named("npo:beta=1", {}) == "npo:beta=1"
    with pytest.raises(InputError, match=r"layers: .+ is not valid"):  # of two layers no name can say
        method_of(named("ssiuu", {"layers": [0, 1]}))


def test_a_record_with_a_field_that_the_method_lacks_is_refused(tmp_path, monkeypatch):
    plain = method_of("npo")
    record = SimpleNamespace(
        config=plain.method.config,
        trainer=plain.method.trainer,
        embedded_defaults={},
        search_space={"betta": (1, 2)},
    )
    record.defaults = record.full_defaults = {}
    lacking = type(plain)(record)
    monkeypatch.setattr(search_space, "method_of", lambda name: lacking)
    with pytest.raises(InputError, match="npo: search_space has 'betta', which is no field of it, or has no values"):
        space("npo", tmp_path)
