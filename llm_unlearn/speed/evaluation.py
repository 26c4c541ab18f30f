"""What a TOFU evaluation costs: each stage against its floor, and against scoring metric by metric.

The floor of scoring is the time of the tokens that must be forwarded (a question once, the common beginnings of its
answers once) at the fastest rate at which this model forwards dense batches on this machine. The baseline scores every
metric on its own, in groups of 32 rows in the order of the files, with logits at all positions, as evaluation code
usually does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from datasets import Dataset
from rich import box
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from llm_unlearn.arguments.groups import DataArguments
from llm_unlearn.arguments.parsing import arguments_to_dict, parse_arguments
from llm_unlearn.arguments.ranges import COUNT, COUNT_OR_NONE, LENGTH, check_ranges
from llm_unlearn.data import UnlearningData
from llm_unlearn.data.collators import EncodedRow, pad_rows
from llm_unlearn.examining.preflight import Asked, check_model
from llm_unlearn.files.disk import check_output_dir
from llm_unlearn.files.run_folder import locked
from llm_unlearn.files.whole import write_json
from llm_unlearn.models.answer_trees import AnswerTree, answer_trees
from llm_unlearn.models.answers import narrowed_logits
from llm_unlearn.models.judging import GatheredAnswers, JudgedSet, Records, judge
from llm_unlearn.models.loading import use_all_cpu_threads
from llm_unlearn.models.scoring import generate_answers
from llm_unlearn.runs.benchmarking import show_dry_run
from llm_unlearn.runs.tofu import GENERATED, judged_sets

NAIVE_GROUP = 32
DENSE_SHAPES = ((64, 32), (32, 64), (16, 128), (8, 256))  # rows x tokens: the fastest is the model's rate
REPETITIONS = 3


@dataclass
class SpeedArguments(DataArguments):
    """What is evaluated; without a model, a Llama of about 30 M parameters with random weights."""

    batch_size: int = field(default=64, metadata={"help": "Rows that are scored at once."})
    max_length: int | None = field(default=1024, metadata={"help": "Rows are cut to this many tokens."})
    baseline: bool = field(default=True, metadata={"help": "Also score metric by metric, which takes long."})
    generated_tokens: int = field(
        default=0, metadata={"help": "Also generate this many tokens for every row that has ROUGE; 0: do not."}
    )
    output_dir: str = field(default="outputs/speed", metadata={"help": "Folder that receives eval.json."})

    def __post_init__(self):
        check_ranges(self, {"batch_size": COUNT, "max_length": LENGTH, "generated_tokens": COUNT_OR_NONE})


def evaluation_speed(description: str, argv: list[str] | None = None) -> dict:
    """Time the stages of an evaluation, print them as a table and write them to eval.json."""
    (arguments,) = parse_arguments((SpeedArguments,), argv, description=description)
    use_all_cpu_threads()
    check_output_dir(arguments.output_dir)
    data = arguments.load_data()
    if arguments.dry_run:
        show_dry_run(data, arguments)
        return {}
    if arguments.model_name_or_path is None:
        processing_class, model = random_llama(data)
    else:
        processing_class = arguments.load_tokenizer(arguments.pinned_model)
        model = arguments.load_model(arguments.pinned_model)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    _preflight(arguments, data, processing_class, model)
    with locked(arguments.output_dir) as folder:
        measured = Measurement(arguments, data, processing_class, model).run()
        write_json(folder / "eval.json", {"config": arguments_to_dict(arguments), **measured})
    return measured


def _preflight(
    arguments: SpeedArguments,
    data: UnlearningData,
    processing_class: PreTrainedTokenizerBase,
    model: PreTrainedModel,
) -> None:
    sets = judged_sets(data)
    asked = Asked.of_sets(
        processing_class,
        sets,
        arguments.max_length,
        [name for name in GENERATED if name in sets and arguments.generated_tokens],
        {} if data.holdout is None else {"holdout": data.holdout},
        max_new_tokens=arguments.generated_tokens,
        load_model=lambda _path: model,
    )
    check_model(asked, model, f"model_name_or_path {arguments.model_name_or_path!r}")


@dataclass
class Measurement:
    """One run of all stages; `stages` has, for each, rows, forwarded tokens, seconds and floor in seconds."""

    arguments: SpeedArguments
    data: UnlearningData
    processing_class: PreTrainedTokenizerBase
    model: PreTrainedModel
    stages: dict[str, dict] = field(default_factory=dict)

    def run(self) -> dict:
        """Measure, print the table, and return everything."""
        self.sets = judged_sets(self.data)
        gathered = GatheredAnswers(self.processing_class, self.arguments.max_length)
        self.judged = {name: JudgedSet.gather(name, dataset, gathered) for name, dataset in self.sets.items()}
        self.holdout = gathered.add(self.data.holdout, "holdout") if self.data.holdout is not None else range(0)
        self.rows = gathered.rows
        trees = answer_trees(self.rows)
        rate = forward_rate(self.model, trees)

        with self.timed("scoring"):
            records = judge(
                self.model,
                self.processing_class,
                self.sets,
                holdout=self.data.holdout,
                batch_size=self.arguments.batch_size,
                max_length=self.arguments.max_length,
            )
        tokens = sum(len(tree.tokens) for tree in trees)
        self.stages["scoring"] |= {"rows": len(self.rows), "tokens": tokens}
        difference = self.baseline(records) if self.arguments.baseline else None
        if self.arguments.generated_tokens:
            self.generation()
        rate = max(rate, forward_rate(self.model, trees))  # other work on the machine must not lower the floor
        for stage in self.stages.values():
            stage["floor_seconds"] = stage["tokens"] / rate
        measured = {
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "device": str(self.model.device),
            "threads": torch.get_num_threads(),
            "tokens_per_second": rate,
            "tokens_as_single_rows": sum(len(row["input_ids"]) - 1 for row in self.rows),
            "stages": self.stages,
            "scoring_over_floor": self.stages["scoring"]["seconds"] / self.stages["scoring"]["floor_seconds"],
        }
        if difference is not None:
            naive = sum(stage["seconds"] for name, stage in self.stages.items() if name.startswith("metric by metric"))
            measured["baseline_over_scoring"] = naive / self.stages["scoring"]["seconds"]
            measured["largest_difference_in_avg_loss"] = difference
        print_measurement(measured)
        return measured

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the stage with the seconds spent inside."""
        started = time.perf_counter()
        yield
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        self.stages[stage] = {"seconds": time.perf_counter() - started}

    def generation(self) -> None:
        """Greedy answers for all sets, each of exactly so many tokens where the model never ends one."""
        chosen = [number for one in self.judged.values() for number in one.answers]
        lengths = [sum(label != -100 for label in self.rows[number]["labels"]) for number in chosen]
        prompts = [self.rows[i]["input_ids"][:-length] for i, length in zip(chosen, lengths, strict=True)]
        count = self.arguments.generated_tokens
        with self.timed(f"generation of {count} tokens a row"):
            generate_answers(
                self.model, self.processing_class, prompts, count, self.arguments.batch_size, expected_lengths=lengths
            )
        tokens = sum(len(prompt) + count for prompt in prompts)
        self.stages[f"generation of {count} tokens a row"] |= {"rows": len(prompts), "tokens": tokens}

    def baseline(self, records: Records) -> float:
        """Score metric by metric; returns the largest difference to `records` in an average loss."""
        forget, largest = self.judged["forget"].answers, 0.0
        passes: list[tuple[str, list[list[int]], Callable]] = []
        for name, one in self.judged.items():
            passes.append((f"{name}_Q_A_Prob", [list(one.answers)], average_losses))
            if one.paraphrased is not None:
                passes.append((f"{name}_Q_A_PARA_Prob", [list(one.paraphrased)], average_losses))
            if one.perturbed is not None:  # all first wrong answers, then all second ones, ...
                columns = max(len(row) for row in one.perturbed)
                lists = [[row[i] for row in one.perturbed if len(row) > i] for i in range(columns)]
                passes.append((f"{name}_Q_A_PERT_Prob", lists, average_losses))
        passes += [(name, [list(forget)], first_choices) for name in ("exact_memorization", "extraction_strength")]
        if self.holdout:
            groups = [list(forget), list(self.holdout)]
            passes += [(name, groups, average_losses) for name in ("mia_loss", "mia_zlib")]
            passes += [("mia_min_k", groups, token_logps), ("mia_min_k_plus_plus", groups, vocabulary_statistics)]
        for name, lists, reduce in tqdm(passes, desc="metric by metric", unit="metric", dynamic_ncols=True):
            with self.timed(f"metric by metric: {name}"):
                values, tokens = [], 0
                for numbers in lists:
                    for start in range(0, len(numbers), NAIVE_GROUP):
                        group = [self.rows[i] for i in numbers[start : start + NAIVE_GROUP]]
                        values += naive_scores(self.model, group, reduce)
                        tokens += len(group) * max(len(row["input_ids"]) for row in group)
            self.stages[f"metric by metric: {name}"] |= {"rows": sum(map(len, lists)), "tokens": tokens}
            if name.endswith("_Q_A_Prob"):
                ours = [row["avg_loss"] for row in records[name]["value_by_index"].values()]
                largest = max(largest, *(abs(a - b) for a, b in zip(values, ours, strict=True)))
        return largest


@torch.no_grad()
def forward_rate(model: PreTrainedModel, trees: list[AnswerTree]) -> float:
    """Tokens per second of the fastest dense batch, with logits at as large a share of positions as in `trees`."""
    tokens = sum(len(tree.tokens) for tree in trees)
    share = sum(len(tree.tokens) - tree.first_predictor for tree in trees) / tokens
    best = 0.0
    with narrowed_logits(model) as logits_only_at:
        for shape in DENSE_SHAPES:
            ids = torch.randint(model.config.vocab_size, shape, device=model.device)
            wanted = torch.zeros(shape, dtype=torch.bool, device=model.device)
            wanted[:, -round(share * shape[1]) :] = True
            for _ in range(REPETITIONS):
                logits_only_at(wanted)
                started = time.perf_counter()
                model(input_ids=ids, use_cache=False)
                if model.device.type == "cuda":
                    torch.cuda.synchronize()
                best = max(best, ids.numel() / (time.perf_counter() - started))
    return best


@torch.no_grad()
def naive_scores(model: PreTrainedModel, rows: list[EncodedRow], reduce: Callable) -> list:
    """One padded group with logits everywhere; `reduce` makes one value of each row's (logits, labels)."""
    batch = {name: value.to(model.device) for name, value in pad_rows(rows, pad_token_id=0).items()}
    labels = batch.pop("labels")[:, 1:]
    logits = model(**batch).logits[:, :-1].float()
    return reduce(logits, labels)


def average_losses(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Average loss of each row."""
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return (losses.sum(1) / (labels != -100).sum(1)).tolist()


def first_choices(logits: torch.Tensor, labels: torch.Tensor) -> list[list[bool]]:
    """Hits of each row's answer tokens."""
    hits = logits.argmax(-1) == labels
    return [row[mask].tolist() for row, mask in zip(hits, labels != -100, strict=True)]


def token_logps(logits: torch.Tensor, labels: torch.Tensor) -> list[list[float]]:
    """Log-probabilities of each row's answer tokens."""
    logps = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return [row[mask].tolist() for row, mask in zip(logps, labels != -100, strict=True)]


def vocabulary_statistics(logits: torch.Tensor, labels: torch.Tensor) -> list[list[float]]:
    """Standardized log-probabilities of each row's answer tokens."""
    logps = logits.log_softmax(-1)
    means = (logps.exp() * logps).sum(-1)
    deviations = ((logps.exp() * logps.square()).sum(-1) - means.square()).clamp(min=1e-6).sqrt()
    values = (logps.gather(-1, labels.clamp(min=0)[..., None])[..., 0] - means) / deviations
    return [row[mask].tolist() for row, mask in zip(values, labels != -100, strict=True)]


def random_llama(data: UnlearningData) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """A tokenizer of up to 32,000 tokens trained on the data, and a Llama of that vocabulary with random weights."""
    datasets = [one for one in (data.forget, data.retain, data.holdout, *data.evaluation.values()) if one is not None]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=32_000,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for one in datasets for text in _texts(one)), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=7,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=wrapped.pad_token_id,
        bos_token_id=None,
        eos_token_id=wrapped.eos_token_id,
    )
    torch.manual_seed(0)
    return wrapped, LlamaForCausalLM(config)


def _texts(dataset: Dataset) -> list[str]:
    return [*dataset["question"], *dataset["answer"]]


def print_measurement(measured: dict) -> None:
    """A row per stage: rows, tokens, seconds, floor, and seconds over floor."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("stage", no_wrap=True)
    for title in ("rows", "tokens", "seconds", "floor", "ratio"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, stage in measured["stages"].items():
        seconds, floor = stage["seconds"], stage["floor_seconds"]
        numbers = (
            f"{stage['rows']:,}",
            f"{stage['tokens']:,}",
            f"{seconds:.1f}",
            f"{floor:.1f}",
            f"{seconds / floor:.2f}",
        )
        table.add_row(name, *numbers)
    console = Console(highlight=False, width=max(Console().width, 100))
    console.print(
        f"{measured['parameters'] / 1e6:.1f} M parameters on {measured['device']} ({measured['threads']} threads), "
        f"{measured['tokens_per_second']:,.0f} tokens/s in dense batches",
        soft_wrap=True,
    )
    console.print(table)
    shared, single = measured["stages"]["scoring"]["tokens"], measured["tokens_as_single_rows"]
    console.print(f"tokens that must be forwarded: {shared:,} (as single rows: {single:,})", soft_wrap=True)
    console.print(f"scoring: {measured['scoring_over_floor']:.2f} x its floor", soft_wrap=True)
    if "baseline_over_scoring" in measured:
        console.print(
            f"metric by metric: {measured['baseline_over_scoring']:.2f} x the time of scoring; "
            f"largest difference of an average loss {measured['largest_difference_in_avg_loss']:.1e}",
            soft_wrap=True,
        )
