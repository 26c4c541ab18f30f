"""What the start banner says about memory and the reference, and what a run will write; by hand, on a tiny model."""

import pytest
from builders import arguments, lora_config, qa_rows, tiny_model, tiny_tokenizer

from llm_unlearn import GradientAscentConfig, GradientAscentTrainer, NPOConfig, NPOTrainer
from llm_unlearn.resources import bytes_to_write, estimated_memory, reference_words

WHOLE = 18_848  # parameters of the tiny Llama, 4 bytes each
ADAPTER = 3_712  # of a LoRA of rank 4 on all its linear maps


def trainer_of(folder, config=GradientAscentConfig, trainer=GradientAscentTrainer, lora=True, **changes):
    return trainer(
        model=tiny_model(),
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
