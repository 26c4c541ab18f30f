"""What holds of every method: what it trains, accumulation, and that its settings can be."""

import copy
import dataclasses

import pytest
import torch
from builders import arguments, largest_difference, mixed_batch, step_logs, tiny_model, trainable
from trainers import METHODS, ON_WHOLE_WEIGHTS, OWN, build

from llm_unlearn.models.embedded import EMBEDDED_DEFAULTS

LONG_STANDING = ("gradient_ascent", "npo", "ssiuu", "dpo", "idk", "rmu")


def logits(model):
    with torch.no_grad():
        return model(input_ids=mixed_batch()["input_ids"]).logits


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ON_WHOLE_WEIGHTS])
def test_lora_training_changes_the_adapter_and_nothing_else(method, tmp_path):
    base = tiny_model()
    trainer = build(method, tmp_path, model=copy.deepcopy(base), forget=6, retain=6, num_train_epochs=3)
    before = copy.deepcopy(trainer.model.state_dict())
    adapter = trainable(trainer.model)
    assert adapter and all("lora_" in name for name in adapter)
    trainer.train()
    assert {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])} == set(
        adapter
    )
    trainer.model.eval()
    assert not torch.allclose(logits(trainer.model), logits(base), atol=1e-2)
    with trainer.model.disable_adapter():
        assert torch.equal(logits(trainer.model), logits(base))


def accumulation_cases():
    """Those that bring code of their own to each part once more in other settings."""
    for method in METHODS:
        yield method, method not in ON_WHOLE_WEIGHTS, 5 if method != "task_vector" else 0, {}
        if method in LONG_STANDING:
            yield from ((method, True, 0, {}), (method, False, 0, {}))
    for lora in (True, False):  # a step of its own for the batch, which micro-batches take together
        yield "sam", lora, 0, {"rho": 0.3, "retain_loss": "kl"}


@pytest.mark.parametrize(("method", "lora", "general", "changes"), accumulation_cases())
# 11: a step of 8 rows, and one of 3, in micro-batches of 2 and 1; 16 only repeats the former
@pytest.mark.parametrize("forget", [11, pytest.param(16, marks=pytest.mark.long)])
def test_accumulating_four_batches_of_two_equals_one_batch_of_eight(method, forget, lora, general, changes, tmp_path):
    runs = []
    for batch, accumulate in ((8, 1), (2, 4)):
        trainer = build(
            method,
            tmp_path / str(batch),
            lora=lora,
            forget=forget,
            general=general,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulate,
            learning_rate=1e-3,
            adam_epsilon=1e-4,  # else Adam makes a step of full size out of a gradient that is only rounding
            **changes,
        )
        start = trainable(trainer.model)
        trainer.train()
        runs.append((trainable(trainer.model), step_logs(trainer)))
    assert largest_difference(start, runs[0][0]) > 1e-3
    assert largest_difference(runs[0][0], runs[1][0]) < 1e-5
    assert len(runs[0][1]) == len(runs[1][1]) == 4
    for whole, accumulated in zip(runs[0][1], runs[1][1], strict=True):
        assert whole.keys() == accumulated.keys()
        # The ratio is measured on one micro-batch, and the Trainer counts epochs in micro-batches.
        for name in whole.keys() - {"regularizer/gradient_ratio", "epoch"}:
            assert accumulated[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("method", METHODS)
def test_what_a_record_says_of_its_fields_can_be(method, tmp_path):
    """The embedded world's defaults, and every value of the search space, as the trainer's own arguments."""
    record = METHODS[method]
    known = {one.name for one in dataclasses.fields(record.config)}
    assert known >= {*record.embedded_defaults, *record.embedded_full_defaults, *record.search_space}
    shared = {name: value for name, value in EMBEDDED_DEFAULTS.items() if name in known}  # others are of attacks
    embedded = {**shared, **record.embedded_defaults}
    arguments(record.config, tmp_path, **embedded | record.embedded_full_defaults)
    for name, values in record.search_space.items():
        default = embedded.get(name, getattr(arguments(record.config, tmp_path, **embedded), name))
        for value in values:
            assert type(value) is type(default), name
            arguments(record.config, tmp_path, **embedded | {name: value})


def test_no_own_setting_is_of_a_method_that_is_not():
    assert set(OWN) <= set(METHODS)
