"""What the start banner says about memory and the reference, and what a run will write; by hand, on a tiny model."""

import pytest
import torch
from builders import arguments, lora_config, qa_rows, tiny_model, tiny_tokenizer

from llm_unlearn import GradientAscentConfig, GradientAscentTrainer, NPOConfig, NPOTrainer
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.training.memory import (
    attack_memory,
    attack_memory_words,
    bytes_to_write,
    estimated_memory,
    reference_words,
)

WHOLE = 18_848  # parameters of the tiny Llama, 4 bytes each
ADAPTER = 3_712  # of a LoRA of rank 4 on all its linear maps


def trainer_of(folder, config=GradientAscentConfig, trainer=GradientAscentTrainer, lora=True, model=None, **changes):
    return trainer(
        model=model or tiny_model(),
        args=arguments(config, folder, **changes),
        forget_dataset=qa_rows(8),
        retain_dataset=qa_rows(8, 8),
        processing_class=tiny_tokenizer(),
        peft_config=lora_config() if lora else None,
    )


def test_memory_by_what_it_is_for(tmp_path):
    full = estimated_memory(trainer_of(tmp_path, lora=False))
    assert sum(p.numel() for p in tiny_model().parameters()) == WHOLE
    assert (full["gradients"], full["optimizer"]) == (WHOLE * 4, WHOLE * 8)
    buffers = full["weights"] - WHOLE * 4  # of the rotary positions
    assert 0 <= buffers < 100
    # 4 forget and 4 retain rows of 12 tokens; a block's maps: 2 x (32 + 32), 2 x (32 + 16), 3 x (32 + 48)
    assert full["activations"] == 8 * 12 * 2 * (128 + 96 + 240) * 4
    assert full["logits"] == 8 * 4 * 52 * (4 + 8)  # answers of 3 tokens and their end token
    lora = estimated_memory(trainer_of(tmp_path))
    assert (lora["gradients"], lora["optimizer"]) == (ADAPTER * 4, ADAPTER * 8)
    assert estimated_memory(trainer_of(tmp_path, lora=False, retain_loss="kl"))["weights"] == 2 * full["weights"]


BLOCK = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48  # weights of a block's maps
HEAD = 52 * 32


@pytest.mark.parametrize("lora", [True, False])
def test_memory_of_an_attack_by_what_it_is_for(tmp_path, lora):
    trainer = trainer_of(tmp_path, lora=lora)  # what is attacked has the adapter merged
    full = attack_memory(trainer, AttackBudget())
    assert full == {
        "weights": 2 * WHOLE * 4,  # the model and its copy
        "gradients": WHOLE * 4,
        "optimizer": WHOLE * 8,
        "activations": 8 * 12 * 2 * (128 + 96 + 240) * 4,
        "logits": 8 * 4 * 52 * (4 + 8),
    }
    adapter = 2 * 2 * (128 + 96 + 240)  # of rank 2
    attacked_by_lora = attack_memory(trainer, AttackBudget(attackers=("lora",), lora_r=2))
    assert attacked_by_lora == full | {
        "weights": 2 * WHOLE * 4 + adapter * 4,
        "gradients": adapter * 4,
        "optimizer": adapter * 8,
    }
    assert attack_memory(trainer, AttackBudget(attackers=("lora", "full"), lora_r=2)) == full  # the larger
    smaller = attack_memory(trainer, AttackBudget(micro_batch_size=2, activation_checkpointing=True))
    assert smaller["activations"] == 2 * 12 * (128 + 96 + 240 + 2 * 32) * 4  # what enters each block, and one block
    assert smaller["logits"] == full["logits"] / 4
    assert attack_memory(trainer, AttackBudget(micro_batch_size=99)) == full


def test_memory_of_an_attack_on_a_model_in_16_bits(tmp_path):
    model = tiny_model().to(torch.bfloat16)
    model.config.dtype = torch.bfloat16  # as it is loaded
    trainer = trainer_of(tmp_path, model=model)
    full = attack_memory(trainer, AttackBudget())
    assert (full["gradients"], full["optimizer"]) == (WHOLE * 4, WHOLE * 8)
    assert full["weights"] == WHOLE * 2 + WHOLE * 4 + (2 * BLOCK + HEAD) * 2
    assert full["activations"] == 8 * 12 * 2 * (128 + 96 + 240) * 2
    spared = attack_memory(trainer, AttackBudget(activation_checkpointing=True))
    assert spared["weights"] == full["weights"] - BLOCK * 2
    adapter = 2 * 2 * (128 + 96 + 240)  # of rank 2
    attacked_by_lora = attack_memory(trainer, AttackBudget(attackers=("lora",), lora_r=2))
    assert attacked_by_lora["weights"] == 2 * WHOLE * 2 + adapter * 4
    assert attacked_by_lora["activations"] == 2 * full["activations"]  # an adapter's inputs are cast to float32
    words = attack_memory_words(trainer, AttackBudget())
    assert words.startswith("about ") and words.endswith("), computing in bfloat16")


@pytest.mark.parametrize(
    ("lora", "changes", "expected"),
    [
        (True, {}, ADAPTER * 4),
        (False, {}, WHOLE * 4),
        (True, {"save_strategy": "epoch"}, ADAPTER * 4 + 2 * ADAPTER * 12),  # 2 epochs
        (True, {"save_strategy": "steps", "save_steps": 1}, ADAPTER * 4 + 4 * ADAPTER * 12),  # 4 steps
        (True, {"save_strategy": "steps", "save_steps": 0.5}, ADAPTER * 4 + 2 * ADAPTER * 12),
        (False, {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}, WHOLE * 4 + 2 * WHOLE * 12),
    ],
)
def test_what_a_run_writes(tmp_path, lora, changes, expected):
    assert bytes_to_write(trainer_of(tmp_path, lora=lora, **changes)) == expected


def test_where_references_come_from(tmp_path):
    assert reference_words(trainer_of(tmp_path)) == "none"
    assert reference_words(trainer_of(tmp_path, retain_loss="kl")) == "the adapter switched off"
    both = trainer_of(tmp_path, NPOConfig, NPOTrainer, lora=False, retain_loss="kl")
    assert reference_words(both) == "log-probabilities of the forget rows, computed once; a frozen copy"
