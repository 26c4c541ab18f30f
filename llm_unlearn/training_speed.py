"""What a training step costs: every trainer against plain supervised fine-tuning on the same rows.

Measured is a real run: `trainer.train()` of the package's trainers and of a plain `transformers.Trainer` (logits at all
positions, the model's own loss), from the batch to the update and the log line. All take turns in one process, a block
of ten steps each, so that other work on the machine slows all alike, and what is done once per log line (every five
steps) is spread over the steps between, as for users. Not included: what happens once per run (loading, NPO's reference
log-probabilities, the optimizer's first allocation), and Ssiuu's gradient ratio, two backward passes of the forget rows
every 50 steps.

The learning rate is 0: the same arithmetic, and all trainers can share one model, which stays as it is.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from rich import box
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from tqdm.auto import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from llm_unlearn.arguments import arguments_to_dict, parse_arguments
from llm_unlearn.config import GradientAscentConfig, NPOConfig, SsiuuConfig, UnlearnConfig
from llm_unlearn.data import encode_dataset
from llm_unlearn.data.collators import EncodedRow, pad_rows
from llm_unlearn.errors import InputError
from llm_unlearn.methods import GradientAscentTrainer, NPOTrainer, SsiuuTrainer
from llm_unlearn.modeling import DTYPES, use_all_cpu_threads
from llm_unlearn.recipe import write_json
from llm_unlearn.trainer import UnlearnTrainer

PLAIN = "plain supervised"
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
# PyTorch's counter knows the attention kernels of GPUs only.
ATTENTION_FLOPS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(
        *shapes[:4]
    ),
}


@dataclass(frozen=True)
class Method:
    """A trainer, and the passes of its step beyond one forward and one backward of all rows.

    Attributes:
        trainer_class, config_class, config: what is trained with; `config` holds the fields that define the method.
        extra_backwards: further backward passes, of forget rows and through the blocks alone, without gradients of
            weights.
    """

    trainer_class: type[UnlearnTrainer]
    config_class: type[UnlearnConfig]
    config: dict[str, object] = field(default_factory=dict)
    extra_backwards: int = 0


METHODS = {
    "gradient_ascent": Method(GradientAscentTrainer, GradientAscentConfig),
    "npo": Method(NPOTrainer, NPOConfig),
    "ssiuu": Method(SsiuuTrainer, SsiuuConfig, {"backbone": "npo"}, extra_backwards=1),
    "ssiuu_gradient_ascent": Method(SsiuuTrainer, SsiuuConfig, {"backbone": "gradient_ascent"}, extra_backwards=1),
}


@dataclass
class TrainingSpeedArguments:
    """What is trained on what: a Llama of random weights (by default of 29 M parameters) on random rows."""

    methods: list[str] = field(
        default_factory=lambda: list(METHODS), metadata={"help": f"Any of {', '.join(METHODS)}."}
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
    output_dir: str = field(
        default="outputs/training_speed", metadata={"help": "Folder that receives train.json and table.md."}
    )

    def __post_init__(self):
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"methods: {name!r} is unknown; choose from {', '.join(METHODS)}")
        for name in ("layers", "batch_size", "lora_r", "block_steps", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        if self.hidden_size < 1 or self.hidden_size % HEAD_WIDTH:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of {HEAD_WIDTH}")
        if self.vocabulary <= len(RESERVED):
            raise ValueError(f"vocabulary={self.vocabulary} must be more than {len(RESERVED)}")
        if not 2 <= self.answer_tokens < self.row_length - FRAME_TOKENS:
            raise ValueError(
                f"answer_tokens={self.answer_tokens} must be at least 2 and leave more than {FRAME_TOKENS} of the "
                f"row_length={self.row_length} tokens to the question"
            )
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} must be 1 or more")
        if not (self.full_finetuning or self.lora):
            raise ValueError("full_finetuning and lora are both off: nothing is left to measure")

    @property
    def settings(self) -> list[str]:
        """What is trained: all weights, adapters, or first one, then the other."""
        return [name for name in ("full_finetuning", "lora") if getattr(self, name)]


def training_speed(description: str, argv: list[str] | None = None) -> dict:
    """Measure the steps of all trainers, print them as a table, write train.json and table.md, return train.json."""
    (arguments,) = parse_arguments((TrainingSpeedArguments,), argv, description=description)
    use_all_cpu_threads()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    measured: dict = {"config": arguments_to_dict(arguments), "threads": torch.get_num_threads(), "settings": {}}
    for setting in arguments.settings:
        with tempfile.TemporaryDirectory() as scratch:
            measured |= measure_setting(arguments, setting, measured["settings"], scratch)
    write_json(folder / "train.json", measured)
    (folder / "table.md").write_text(markdown_table(measured), encoding="utf-8")
    print_measurement(measured)
    return measured


def measure_setting(arguments: TrainingSpeedArguments, setting: str, settings: dict, scratch: str) -> dict:
    """Measure all trainers on all weights or on adapters; adds to `settings` and returns what describes the model."""
    tokenizer, model = random_llama(arguments)
    described = {"parameters": sum(p.numel() for p in model.parameters()), "head_share": head_share(model)}
    rows = arguments.batch_size * arguments.block_steps
    datasets = [random_rows(arguments, rows, seed) for seed in (0, 1)]
    if setting == "lora":
        config = LoraConfig(r=arguments.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    gc.collect()
    gc.freeze()  # Accelerate collects garbage before every run: seconds, were all modules looked through each time
    trainers = {PLAIN: plain_trainer(arguments, model, tokenizer, datasets, scratch)}
    for name in arguments.methods:
        trainers[name] = method_trainer(METHODS[name], arguments, model, tokenizer, datasets, scratch)
    described["device"] = str(trainers[PLAIN].args.device)

    found: dict[str, dict] = {name: {"seconds_per_block": []} for name in trainers}
    blocks = tqdm(total=len(trainers) * (arguments.repeats + 1), desc=setting, unit="block", dynamic_ncols=True)
    for name, trainer in trainers.items():
        run_block(trainer, steps=1)  # allocates the optimizer's state, computes NPO's reference log-probabilities
        found[name] |= count_block(trainer)
        blocks.update()
    for _ in range(arguments.repeats):
        for name, trainer in trainers.items():
            found[name]["seconds_per_block"].append(run_block(trainer))
            blocks.update()
    blocks.close()
    gc.unfreeze()
    settings[setting] = {name: summary(name, found, arguments, setting, described["head_share"]) for name in found}
    return described


def summary(name: str, found: dict[str, dict], arguments: TrainingSpeedArguments, setting: str, share: float) -> dict:
    """Medians of one trainer, beside the plain one's: seconds of the blocks that ran in the same round are compared."""
    own, plain = found[name], found[PLAIN]
    pairs = zip(own["seconds_per_block"], plain["seconds_per_block"], strict=True)
    lora, answer_share = setting == "lora", arguments.answer_tokens / arguments.row_length
    passes = counted_passes(None if name == PLAIN else METHODS[name], lora, share, answer_share)
    return {
        "seconds": statistics.median(own["seconds_per_block"]) / arguments.block_steps,
        "seconds_over_plain": statistics.median(mine / its for mine, its in pairs),
        "counted_passes": passes,
        "floor_over_plain": passes / counted_passes(None, lora, share, answer_share),
        "flops": own["flops"],
        "flops_over_plain": own["flops"] / plain["flops"],
        "peak_bytes": own["peak_bytes"],
        "peak_over_plain": own["peak_bytes"] / plain["peak_bytes"],
        "seconds_per_block": own["seconds_per_block"],
    }


def counted_passes(method: Method | None, lora: bool, head_share: float, answer_share: float) -> float:
    """The matrix products that a step cannot do without, in forwards of its rows with logits at all positions.

    A pass is the products of every weight with every position: the forward is one, the gradient of the inputs is one,
    the gradient of the weights is one, which frozen weights do not need. So a plain supervised step is 3 passes, and 2
    where only adapters are trained, whose own products (of rank r) are left out, as are those inside attention. The
    package needs the output embedding at the positions before answer tokens alone, which shrinks every pass by the
    same factor. Ssiuu needs one more gradient of the inputs, of the forget rows, which are half of all, and of the
    blocks alone: in both backwards the output embedding passes on the same gradient but for a factor per token.

    Args:
        method: None: the plain supervised step.
        lora: only adapters are trained.
        head_share: share of the output embedding in the weights of all linear maps.
        answer_share: answer tokens / tokens of a row.
    """
    passes = 2.0 if lora else 3.0
    if method is None:
        return passes
    narrowed = 1 - head_share * (1 - answer_share)
    return narrowed * passes + method.extra_backwards / 2 * (1 - head_share)


def head_share(model: PreTrainedModel) -> float:
    """Share of the output embedding in the weights of all linear maps."""
    weights = [module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear)]
    return model.get_output_embeddings().weight.numel() / sum(weights)


# ---- what is trained --------------------------------------------------------------------------------------------


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
    return Dataset.from_list([{"question": question, "answer": answer} for question, answer in texts])


def method_trainer(
    method: Method,
    arguments: TrainingSpeedArguments,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    datasets: Sequence[Dataset],
    scratch: str,
) -> UnlearnTrainer:
    """The package's own trainer with its defaults, on forget rows and as many retain rows."""
    config = method.config_class(
        output_dir=scratch,
        per_device_train_batch_size=arguments.batch_size,
        max_steps=arguments.block_steps,
        **COMMON,
        **method.config,
    )
    trainer = method.trainer_class(
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
    config = TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=2 * arguments.batch_size,
        max_steps=arguments.block_steps,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        **COMMON,
    )
    trainer = Trainer(model=model, args=config, train_dataset=[*forget, *retain], data_collator=_supervised_batch)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _supervised_batch(rows: list[EncodedRow]) -> dict[str, torch.Tensor]:
    return pad_rows(rows, pad_token_id=0)


# ---- what is measured -------------------------------------------------------------------------------------------


class StepClock(TrainerCallback):
    """Seconds of a run from before its first batch to after its last log line, without set-up and end."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.device, self.seconds = trainer, trainer.args.device, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        if isinstance(self.trainer, SsiuuTrainer):
            self.trainer._ratio_step = 0  # as if it were measured already: once in 50 steps, not once a block

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.started = self._now()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.seconds = self._now() - self.started


def run_block(trainer: Trainer, steps: int | None = None) -> float:
    """Train for so many steps (default: `block_steps`) and return the seconds they took."""
    clock, block_steps = StepClock(trainer), trainer.args.max_steps
    trainer.args.max_steps = steps or block_steps
    trainer.add_callback(clock)
    try:
        trainer.train()
    finally:
        trainer.args.max_steps = block_steps
        trainer.remove_callback(clock)
    return clock.seconds


class AllocatedBytes(TorchDispatchMode):
    """Within this scope, `peak` is the largest number of bytes that tensors allocated in it held at one time.

    Exact whatever the allocator does and whatever ran before, unlike the size of the process; scratch memory inside an
    operation is not seen (on a CPU: some hundred bytes of a step, by PyTorch's profiler).
    """

    def __init__(self):
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in _tensors((args, kwargs)):
            self._see(tensor, new=False)  # it was there before this scope
        output = func(*args, **(kwargs or {}))
        for tensor in _tensors(output):
            self._see(tensor, new=True)
        return output

    def _see(self, tensor: torch.Tensor, new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes() if new else 0
        weakref.finalize(storage, self._forget, key, size)
        self.held += size
        self.peak = max(self.peak, self.held)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def _tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def count_block(trainer: Trainer) -> dict[str, float]:
    """What does not depend on the machine's load: operations of a step, and the peak of a block in bytes.

    Operations are those of all matrix products, those inside attention included. The peak is what is allocated beyond
    that which is held between steps (weights, the optimizer's state); on a GPU, from PyTorch's own statistics.
    """
    on_gpu = trainer.args.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_FLOPS) as flops, AllocatedBytes() as allocated:
        run_block(trainer)
    peak = torch.cuda.max_memory_allocated() - before if on_gpu else allocated.peak
    return {"flops": flops.get_total_flops() / trainer.args.max_steps, "peak_bytes": peak}


# ---- views ------------------------------------------------------------------------------------------------------

COLUMNS = ("seconds", "x plain", "x FLOPs", "x floor", "peak MiB", "x peak")


def table_rows(measured: dict, setting: str) -> list[tuple[str, ...]]:
    """A row per trainer: its name, then the columns of `COLUMNS`."""
    return [
        (
            name,
            f"{found['seconds']:.3f}",
            f"{found['seconds_over_plain']:.2f}",
            f"{found['flops_over_plain']:.2f}",
            f"{found['floor_over_plain']:.2f}",
            f"{found['peak_bytes'] / 2**20:,.0f}",
            f"{found['peak_over_plain']:.2f}",
        )
        for name, found in measured["settings"][setting].items()
    ]


def headline(measured: dict) -> str:
    """Model, machine and rows in one line."""
    (config,) = measured["config"].values()
    return (
        f"{measured['parameters'] / 1e6:.1f} M parameters ({measured['head_share']:.0%} of the linear weights in the "
        f"output embedding), {config['dtype']}, on {measured['device']} ({measured['threads']} threads); "
        f"{config['batch_size']} forget + {config['batch_size']} retain rows of {config['row_length']} tokens, "
        f"{config['answer_tokens']} of them answer tokens"
    )


def print_measurement(measured: dict) -> None:
    """A table per setting."""
    console = Console(highlight=False, width=max(Console().width, 100))
    console.print(headline(measured), soft_wrap=True)
    for setting in measured["settings"]:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        table.add_column(setting, no_wrap=True)
        for title in COLUMNS:
            table.add_column(title, justify="right", no_wrap=True)
        for row in table_rows(measured, setting):
            table.add_row(*row)
        console.print(table)
    console.print(
        "seconds: of a step, median. x plain, x FLOPs, x floor: seconds, operations and counted passes over those of "
        "the plain supervised step. peak: beyond weights and optimizer state.",
        soft_wrap=True,
    )


def markdown_table(measured: dict) -> str:
    """The tables of `print_measurement` as Markdown."""
    lines = [headline(measured)]
    for setting in measured["settings"]:
        lines += ["", f"| {setting} | {' | '.join(COLUMNS)} |", f"|---{'|---:' * len(COLUMNS)}|"]
        lines += [f"| {' | '.join(row)} |" for row in table_rows(measured, setting)]
    return "\n".join(lines) + "\n"
