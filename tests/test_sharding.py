"""Whole models in a process that trains a sharded one."""

import os

import pytest
from builders import lora_config, qa_rows, tiny_model, tiny_tokenizer
from transformers.integrations import deepspeed

from llm_unlearn import NPOConfig, NPOTrainer
from llm_unlearn.errors import InputError
from llm_unlearn.sharding import whole_models


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
