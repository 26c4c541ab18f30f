"""Whole models in a process that trains a sharded one."""

import os
from types import SimpleNamespace

import pytest
from builders import lora_config, qa_rows, tiny_model, tiny_tokenizer
from peft import get_peft_model
from transformers.integrations import deepspeed

from llm_unlearn import NPOConfig, NPOTrainer
from llm_unlearn.errors import InputError
from llm_unlearn.models.sharding import check_saves_whole, sharding_of, whole_models


class Zero3:
    def is_zero3(self):
        return True


def test_within_the_scope_nothing_is_sharded_and_after_it_all_is_as_before(monkeypatch):
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", None)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    configuration = Zero3()
    deepspeed.set_hf_deepspeed_config(configuration)
    with pytest.raises(KeyError), whole_models():
        assert not deepspeed.is_deepspeed_zero3_enabled() and "FSDP_CPU_RAM_EFFICIENT_LOADING" not in os.environ
        raise KeyError
    assert deepspeed.is_deepspeed_zero3_enabled() and os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "true"


def test_a_model_in_shards_cannot_be_its_own_reference(tmp_path):
    model = tiny_model()
    next(model.parameters()).ds_id = 0  # DeepSpeed's mark
    with pytest.raises(InputError, match=r"ZeRO 3 has sharded it at loading.*before NPOConfig is made"):
        NPOTrainer(
            model=model,
            args=NPOConfig(output_dir=str(tmp_path), use_cpu=True),
            forget_dataset=qa_rows(4),
            retain_dataset=qa_rows(4, start=20),
            processing_class=tiny_tokenizer(),
            peft_config=lora_config(),
        )


def trainer_with(fsdp=None, zero=None, gather=True, adapter=False):
    """What is asked of a trainer: FSDP's kind of saved state, or DeepSpeed's stage."""
    configuration = {"zero_optimization": {"stage3_gather_16bit_weights_on_model_save": gather}}
    state = SimpleNamespace(
        fsdp_plugin=SimpleNamespace(state_dict_type=fsdp),
        deepspeed_plugin=SimpleNamespace(zero_stage=zero, deepspeed_config=configuration),
    )
    return SimpleNamespace(
        model=get_peft_model(tiny_model(), lora_config(target_modules="all-linear")) if adapter else tiny_model(),
        is_fsdp_enabled=fsdp is not None,
        is_deepspeed_enabled=zero is not None,
        accelerator=SimpleNamespace(state=state, num_processes=4),
    )


def test_settings_that_would_save_shards_are_refused_before_training():
    for fine in ({}, {"fsdp": "StateDictType.FULL_STATE_DICT"}, {"zero": 3}, {"zero": 2, "gather": False}):
        check_saves_whole(trainer_with(**fine))
    check_saves_whole(trainer_with(zero=3, gather=False, adapter=True))  # an adapter is always put together
    with pytest.raises(InputError, match=r"^fsdp_state_dict_type=SHARDED_STATE_DICT would save shards"):
        check_saves_whole(trainer_with(fsdp="StateDictType.SHARDED_STATE_DICT"))
    with pytest.raises(InputError, match=r"^zero3_save_16bit_model=false would save shards"):
        check_saves_whole(trainer_with(zero=3, gather=False))


def test_what_a_checkpoint_must_have_in_common_with_the_run_that_goes_on_from_it():
    assert sharding_of(trainer_with()) is None
    assert sharding_of(trainer_with(fsdp="FULL_STATE_DICT")) == "FSDP"
    assert sharding_of(trainer_with(zero=2)) == "DeepSpeed ZeRO 2 on 4 processes"
