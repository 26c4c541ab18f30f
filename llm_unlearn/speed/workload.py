"""What a training step is measured on: a random Llama, random rows, the package's trainers and a plain one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from llm_unlearn.arguments.ranges import COUNT, check_ranges
from llm_unlearn.data import encode_dataset
from llm_unlearn.data.collators import EncodedRow, pad_rows
from llm_unlearn.errors import InputError
from llm_unlearn.methods import load_methods
from llm_unlearn.methods.method import Method
from llm_unlearn.models.loading import DTYPES
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.trainer import UnlearnTrainer

FRAME_TOKENS = 4  # "Question", ":", "Answer" and ":" stand around the words of a question
RESERVED = ("<end>", "<unk>", "Question", "Answer", ":")
HEAD_WIDTH = 64
COMMON = {
    "learning_rate": 0.0,
    "lr_scheduler_type": "constant",
    "logging_steps": UnlearnConfig.logging_steps,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
# Of methods that cannot do without: a random model has nothing to say. What WHP does once, before its steps, is not
# measured.
NEEDED = {
    "altpo": {"replace_with": "refusal"},
    "pdu": {"epsilon": 0.0},
    "whp": {"reinforce_steps": 1},
}
CHANGES_THE_MODEL = ("cmf", "rewind", "rmu", "undo")  # or what of it is trained; all trainers share one


@dataclass(frozen=True)
class Measured:
    """A method as it is measured: with some fields of its configuration.

    extra_heads: further forwards of the output embedding at the positions before answer tokens.
    """

    method: Method
    config: Mapping[str, object] = field(default_factory=dict)
    extra_heads: int = 0


@cache
def measured_methods() -> dict[str, Measured]:
    """Every method that leaves the shared model as it is, and two in another form."""
    methods = load_methods()
    found = {name: Measured(method, NEEDED.get(name, {})) for name, method in methods.items()}
    for name in CHANGES_THE_MODEL:
        del found[name]
    found["npo_chunked"] = Measured(methods["npo"], {"logits_chunk_size": 64}, extra_heads=1)
    found["ssiuu_gradient_ascent"] = Measured(methods["ssiuu"], {"backbone": "gradient_ascent"})
    return dict(sorted(found.items()))


@dataclass
class TrainingSpeedArguments:
    """What is trained on what: a Llama of random weights (by default of 29 M parameters) on random rows."""

    methods: list[str] = field(
        default_factory=lambda: list(measured_methods()), metadata={"help": f"Any of {', '.join(measured_methods())}."}
    )
    vocabulary: int = field(default=32_000, metadata={"help": "Tokens in the vocabulary."})
    hidden_size: int = field(default=512, metadata={"help": f"Width of the model, a multiple of {HEAD_WIDTH}."})
    layers: int = field(default=4, metadata={"help": "Blocks of the model."})
    tie_word_embeddings: bool = field(
        default=True, metadata={"help": "One matrix for input and output embedding, as small Llamas have it."}
    )
    row_length: int = field(default=128, metadata={"help": "Tokens of every row."})
    answer_tokens: int = field(default=40, metadata={"help": "How many of them are answer tokens."})
    batch_size: int = field(default=4, metadata={"help": "Forget rows of a step; as many retain rows come with them."})
    full_finetuning: bool = field(default=True, metadata={"help": "Measure training of all weights."})
    lora: bool = field(default=True, metadata={"help": "Measure training of LoRA adapters on all linear maps."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    dtype: str = field(default="float32", metadata={"help": "float32 or bfloat16.", "choices": ["float32", "bfloat16"]})
    block_steps: int = field(
        default=10,
        metadata={
            "help": "Steps that a trainer takes at its turn: a multiple of logging_steps (5), so that a log line "
            "counts with its share."
        },
    )
    threads: int | None = field(default=None, metadata={"help": "CPU threads; default: all cores."})
    repeats: int = field(default=3, metadata={"help": "Blocks of every trainer; the median is reported."})
    open_unlearning: str | None = field(
        default=None,
        metadata={"help": "Checkout of locuslab/open-unlearning, whose trainers of these methods then take turns."},
    )
    output_dir: str = field(
        default="outputs/training_speed", metadata={"help": "Folder that receives train.json and table.md."}
    )

    def __post_init__(self):
        for name in self.methods:
            if name not in measured_methods():
                raise ValueError(f"methods: {name!r} is unknown; choose from {', '.join(measured_methods())}")
        counts = ("layers", "row_length", "batch_size", "lora_r", "block_steps", "threads", "repeats")
        check_ranges(self, dict.fromkeys(counts, COUNT))
        if self.hidden_size < 1 or self.hidden_size % HEAD_WIDTH:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of {HEAD_WIDTH}")
        if self.vocabulary <= len(RESERVED):
            raise ValueError(f"vocabulary={self.vocabulary} must be more than {len(RESERVED)}")
        if not 2 <= self.answer_tokens < self.row_length - FRAME_TOKENS:
            raise ValueError(
                f"answer_tokens={self.answer_tokens} must be at least 2 and leave more than {FRAME_TOKENS} of the "
                f"row_length={self.row_length} tokens to the question"
            )
        if not (self.full_finetuning or self.lora):
            raise ValueError("full_finetuning and lora are both off: nothing is left to measure")

    @property
    def settings(self) -> list[str]:
        """What is trained: all weights, adapters, or first one, then the other."""
        return [name for name in ("full_finetuning", "lora") if getattr(self, name)]


def random_llama(arguments: TrainingSpeedArguments) -> tuple[PreTrainedTokenizerFast, PreTrainedModel]:
    """A tokenizer whose words are numbers, and a Llama of that vocabulary with random weights."""
    numbers = [str(number) for number in range(arguments.vocabulary - len(RESERVED))]
    vocabulary = {token: i for i, token in enumerate((*RESERVED, *numbers))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", pad_token="<end>", padding_side="left"
    )
    heads = arguments.hidden_size // HEAD_WIDTH
    config = LlamaConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden_size,
        intermediate_size=-(-arguments.hidden_size * 8 // (3 * HEAD_WIDTH)) * HEAD_WIDTH,  # Llama's 8/3, rounded up
        num_hidden_layers=arguments.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max(2048, arguments.row_length),
        tie_word_embeddings=arguments.tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=wrapped.eos_token_id,
        pad_token_id=wrapped.pad_token_id,
    )
    torch.manual_seed(0)
    return wrapped, LlamaForCausalLM(config).to(DTYPES[arguments.dtype])


def random_rows(arguments: TrainingSpeedArguments, count: int, seed: int) -> Dataset:
    """Questions and answers of random words, which become rows of exactly the tokens asked for."""
    generator = torch.Generator().manual_seed(seed)
    words = arguments.row_length - FRAME_TOKENS - 1  # the answer ends with the end token
    high = arguments.vocabulary - len(RESERVED)
    numbers = torch.randint(high, (count, words), generator=generator).tolist()
    question = words - (arguments.answer_tokens - 1)
    texts = [(" ".join(map(str, row[:question])), " ".join(map(str, row[question:]))) for row in numbers]
    return Dataset.from_list([{"question": question, "answer": answer, "kind": "random"} for question, answer in texts])


def method_trainer(
    measured: Measured,
    arguments: TrainingSpeedArguments,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    datasets: Sequence[Dataset],
    scratch: str,
) -> UnlearnTrainer:
    """The package's own trainer with its defaults, on forget rows and as many retain rows."""
    config = measured.method.config(
        output_dir=scratch,
        per_device_train_batch_size=arguments.batch_size,
        max_steps=arguments.block_steps,
        **COMMON,
        **measured.config,
    )
    trainer = measured.method.trainer(
        model=model, args=config, forget_dataset=datasets[0], retain_dataset=datasets[1], processing_class=tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def plain_trainer(
    arguments: TrainingSpeedArguments,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    datasets: Sequence[Dataset],
    scratch: str,
) -> Trainer:
    """The baseline: forget and retain rows as one supervised batch, logits at all positions, the model's own loss."""
    forget, retain = (encode_dataset(rows, tokenizer, arguments.row_length, "rows") for rows in datasets)
    for row in (*forget, *retain):
        answer_tokens = sum(label != -100 for label in row["labels"])
        if (len(row["input_ids"]), answer_tokens) != (arguments.row_length, arguments.answer_tokens):
            raise InputError(f"a row has {len(row['input_ids'])} tokens, {answer_tokens} of them in its answer")
    config = plain_arguments(arguments, 2 * arguments.batch_size, scratch)
    trainer = Trainer(model=model, args=config, train_dataset=[*forget, *retain], data_collator=_supervised_batch)
    trainer.remove_callback(PrinterCallback)
    return trainer


def plain_arguments(arguments: TrainingSpeedArguments, rows: int, scratch: str) -> TrainingArguments:
    """Training arguments of trainers that are not the package's, with so many rows of their data set a step."""
    return TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=rows,
        max_steps=arguments.block_steps,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        **COMMON,
    )


def _supervised_batch(rows: list[EncodedRow]) -> dict[str, torch.Tensor]:
    return pad_rows(rows, pad_token_id=0)
