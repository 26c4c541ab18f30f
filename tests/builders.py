"""Tiny tokenizers, models with random weights and data sets that tests share; nothing is downloaded."""

import copy
import gc
from functools import cache

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

import llm_unlearn.methods  # noqa: F401  (all imports before the freeze below)
from llm_unlearn.data import encode_dataset
from llm_unlearn.data.collators import FORGET, PADDING, RETAIN, EncodedRow, UnlearnCollator
from llm_unlearn.models.loading import with_pad_token

torch.set_num_threads(1)
gc.collect()
gc.freeze()  # Accelerate collects garbage before every run: half of a tiny run's time, were modules looked through too

FAMILIES = ("llama", "gpt2", "qwen2", "gpt_neox")
NAMES = ("Ann", "Ben", "Cal", "Dora", "Eli", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Lou")
CITIES = ("Paris", "Rome", "Oslo", "Cairo", "Lima", "Kyoto", "Delhi")
FOODS = ("soup", "rice", "bread", "fish", "cake")
COLORS = ("red", "blue", "green", "white")
PETS = ("cat", "dog", "mouse", "parrot", "snake", "goat")
WORDS = ("Where", "does", "live", "What", "eat", "Which", "pet", "have", "in", "lives", "a", "of", "eats")
SPECIAL = ("<unk>", "<end>", "<system>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role + '> ' + m.content + ' <end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, a chat template, and padding with the end token, as many real tokenizers have it."""
    return word_tokenizer([*SPECIAL, *NAMES, *CITIES, *FOODS, *COLORS, *PETS, *WORDS])


def word_tokenizer(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    """The same of any words, which begin with `SPECIAL`."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        padding_side="left",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return with_pad_token(wrapped)


@cache
def qa_rows(count: int, start: int = 0) -> Dataset:
    """Up to 36 distinct questions with answers of one, two or three words; `start` counts rows to leave out."""
    rows = []
    for i in range(start, start + count):
        name, topic = NAMES[i % 12], (i + i // 12) % 3
        question, answer = (
            (f"Where does {name} live", f"in {CITIES[i % 7]}"),
            (f"What does {name} eat", FOODS[i % 5]),
            (f"Which pet does {name} have", f"a {COLORS[i % 4]} {PETS[i % 6]}"),
        )[topic]
        rows.append({"question": question, "answer": answer, "fact_id": f"{name}/{topic}"})
    return Dataset.from_list(rows)


def encoded_rows(count: int, start: int = 0) -> list[EncodedRow]:
    return encode_dataset(qa_rows(count, start), tiny_tokenizer(), None, "rows")


def tiny_model(family: str = "llama", seed: int = 0, **changes) -> PreTrainedModel:
    """Two layers, width 32, weights large enough for clear-cut predictions, no dropout."""
    vocabulary = len(tiny_tokenizer())
    common = {"vocab_size": vocabulary, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": 1}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
    config = {
        "llama": lambda: LlamaConfig(**sizes, **common, intermediate_size=48, num_key_value_heads=2),
        "qwen2": lambda: Qwen2Config(**sizes, **common, intermediate_size=48, num_key_value_heads=2),
        "gpt_neox": lambda: GPTNeoXConfig(**sizes, **common, intermediate_size=64),
        "gpt2": lambda: GPT2Config(
            **common, n_embd=32, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
        ),
    }[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


def lora_config(**changes) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"} | changes)


def with_trained_adapter(model: PreTrainedModel, seed: int = 0, **changes) -> PeftModel:
    """A LoRA adapter that changes what the model says, as one does that was trained before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(copy.deepcopy(model), lora_config(**{"target_modules": "all-linear"} | changes))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.1)
    return adapted


def mixed_batch(forget: int = 3, retain: int = 2, filler: int = 0) -> dict[str, torch.Tensor]:
    """Rows of different lengths: forget rows, filler, retain rows, as the collator orders them."""
    rows = encoded_rows(forget + retain)
    items = [{"forget": {**row, "role": FORGET, "index": i}} for i, row in enumerate(rows[:forget])]
    items += [{"forget": {"input_ids": [3], "labels": [-100], "role": PADDING, "index": -1}}] * filler
    for i, row in enumerate(rows[forget:]):
        items[i]["retain"] = {**row, "role": RETAIN, "index": i}
    return UnlearnCollator(tiny_tokenizer().pad_token_id)(items)


def arguments(config_class, folder, **changes):
    """Training arguments for a run of a second: CPU, every step logged, large steps."""
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    return config_class(**defaults | changes)


def trainable(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all trainable parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def step_logs(trainer) -> list[dict]:
    """The log lines of training steps, without what depends on the clock."""
    return [line for line in trainer.state.log_history if "loss" in line]
