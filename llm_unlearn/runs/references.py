"""The two reference points of honest judging, trained from the data alone: the original and its oracles.

`original` learns all rows; an oracle learns by the same recipe and in the same order, with the forget rows left out.
What is written is all that later commands need: the models, and the rows that they were trained on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from peft import PeftModel
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.arguments.groups import DataArguments
from llm_unlearn.arguments.parsing import arguments_to_dict, is_main_process, parse_arguments
from llm_unlearn.arguments.ranges import COUNT, COUNT_OR_NONE, LENGTH, POSITIVE, SEED, check_ranges
from llm_unlearn.data import UnlearningData, encode_dataset, unusual_template
from llm_unlearn.data.chat_templates import set_template_arguments
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.identity import people_of
from llm_unlearn.errors import InputError
from llm_unlearn.files.disk import check_free_space, check_output_dir
from llm_unlearn.files.run_folder import locked
from llm_unlearn.files.whole import write_json, write_whole
from llm_unlearn.models.adapters import merged
from llm_unlearn.models.cache import build_folder, save_model_folder
from llm_unlearn.models.embedded import EmbeddedRecipe, new_llama, train_on_known, train_tokenizer
from llm_unlearn.models.files import check_model_path, config_of
from llm_unlearn.models.finetuning import forget_progress
from llm_unlearn.models.loading import DTYPES, load_model
from llm_unlearn.models.precision import HALVES, stored_dtype, with_master_weights
from llm_unlearn.models.scoring import mean_scores, score_answers
from llm_unlearn.models.smollm2 import SMOLLM2, located, write_card
from llm_unlearn.runs.benchmarking import show_dry_run
from llm_unlearn.runs.recipe import prepare_process

FORMAT = 1  # raise it when training changes in a way that the descriptions below do not show
DESCRIPTION = "reference.json"  # in each model's folder: what it was trained with
TEXT_COLUMNS = (
    *("question", "answer", "prompt", "completion", "messages", "text"),
    *("paraphrased_question", "paraphrased_answer", "perturbed_answer"),
)
FROM_SCRATCH = ("vocabulary", "hidden_size", "layers", "heads")  # what a base model decides by itself
FINETUNING_DEFAULTS = {"learning_rate": 2e-5, "epochs": 5, "batch_size": 32, "max_length": 1024}


@dataclass
class ReferenceTrainingArguments(DataArguments):
    """Which models are trained on what, and how."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Base model to fine-tune, hub id or folder; default: a small Llama, trained from scratch."},
    )
    oracle_model_name_or_path: list[str] | None = field(default=None, init=False)  # they are what is trained here
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Weights' type as saved; in training they are in float32, and 16 bits are what is computed in.",
            "choices": ["auto", "float32", "bfloat16", "float16"],
        },
    )
    retain_rows: int | None = field(
        default=None,
        metadata={
            "help": "Train on so many retain rows, evenly spread; whole people, where rows have a person. Default: all."
        },
    )
    oracle_seeds: int = field(default=3, metadata={"help": "So many oracles are trained, each from another seed."})
    vocabulary: int = field(default=2048, metadata={"help": "Tokens of the tokenizer, if trained from scratch."})
    hidden_size: int = field(default=128, metadata={"help": "Width of the Llama, if trained from scratch."})
    layers: int = field(default=2, metadata={"help": "Layers of the Llama, if trained from scratch."})
    heads: int = field(default=4, metadata={"help": "Attention heads of the Llama, if trained from scratch."})
    epochs: int = field(default=20, metadata={"help": "Passes over the rows (from a base model: 5)."})
    learning_rate: float = field(
        default=4e-3, metadata={"help": "At its peak; falls along a cosine (from a base model: 2e-5)."}
    )
    batch_size: int = field(default=8, metadata={"help": "Rows per step (from a base model: 32)."})
    micro_batch_size: int | None = field(
        default=None,
        metadata={"help": "So many of them are run at once: less memory, the same training. Default: all."},
    )
    activation_checkpointing: bool = field(
        default=False,
        metadata={"help": "Compute blocks again in the backward instead of keeping them: less memory, slower."},
    )
    max_length: int | None = field(
        default=512, metadata={"help": "Rows are cut to this many tokens (from a base model: 1024)."}
    )
    seed: int = field(default=0, metadata={"help": "Of the original and oracle-0; oracle-K has this plus K."})
    output_dir: str = field(
        default="outputs/references", metadata={"help": "Folder that receives the models and their rows."}
    )

    def __post_init__(self):
        check_ranges(
            self, dict.fromkeys(("epochs", "batch_size", "micro_batch_size", "retain_rows", *FROM_SCRATCH), COUNT)
        )
        check_ranges(self, {"learning_rate": POSITIVE, "max_length": LENGTH})
        check_ranges(self, {"seed": SEED, "oracle_seeds": COUNT_OR_NONE})
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of twice heads={self.heads}: rotary positions turn "
                "pairs of features"
            )

    def load_data(self) -> UnlearningData:
        """The rows that are trained on: as `DataArguments`, with no more retain rows than were asked for.

        Raises:
            InputError: as there, or there are no retain rows, of which an oracle could be made.
        """
        data = super().load_data()
        if data.retain is None:
            raise InputError("there are no retain rows, and oracles are trained on nothing else; give --retain_file")
        if self.retain_rows is None or self.retain_rows >= len(data.retain):
            return data
        return replace(data, retain=data.retain.select(spread_rows(data.retain, self.retain_rows)))

    def model_paths(self) -> tuple[str, list[str]]:
        """Where the original and the oracles are, once they are trained."""
        original, *oracles = (str(Path(self.output_dir) / name) for name in self.models())
        return original, oracles

    def models(self) -> dict[str, int]:
        """Name -> seed."""
        return {"original": self.seed} | {f"oracle-{k}": self.seed + k for k in range(self.oracle_seeds)}

    def recipe(self, rows: int) -> EmbeddedRecipe:
        """How all of them are trained; the warm-up is a twentieth of the original's steps.

        Args:
            rows: that the original is trained on.
        """
        sizes = (self.vocabulary, self.hidden_size, self.layers, self.heads)
        warmup_steps = self.epochs * -(-rows // self.batch_size) // 20
        return EmbeddedRecipe(*sizes, self.epochs, self.batch_size, self.learning_rate, warmup_steps)


def references_from_command_line(description: str, argv: Sequence[str] | None = None) -> dict:
    """Parse, then `train_references`; a base model has defaults of its own. Of several processes, the first works."""
    prepare_process()
    parse = {"argv": argv, "description": description}
    (arguments,) = parse_arguments([ReferenceTrainingArguments], **parse)
    if arguments.model_name_or_path is not None:
        (arguments,) = parse_arguments([ReferenceTrainingArguments], **parse, defaults=FINETUNING_DEFAULTS)
    return train_references(arguments) if is_main_process() else {}


def train_references(arguments: ReferenceTrainingArguments) -> dict:
    """Train the original and the oracles that are not there yet, and score them all on what they were (not) taught.

    Writes under `output_dir`: original/, oracle-0/, ... (model and tokenizer), forget.jsonl and retain.jsonl (the rows
    that were trained on, with all their columns), results.json and config.yaml. A model that is there already and was
    trained in the same way stays. An interrupted training of a base model goes on where it was at most two minutes
    earlier; others begin anew.

    Returns:
        {"config", "paths", "models"}, the last with, for each model, {"forget" and "retain": {"exact_match",
        "probability"}, "seconds": what its training took}; {} after a dry run.

    Raises:
        InputError: the data is not usable, the base model is not there, or `output_dir` holds other models, or another
            run is in it.
        DivergenceError: the loss became NaN or infinite.
    """
    if arguments.model_name_or_path is not None:
        check_model_path(arguments.pinned_model, arguments.trust_remote_code)
    check_output_dir(arguments.output_dir)
    data = arguments.load_data()
    if arguments.dry_run:
        _show_dry_run(arguments, data)
        return {}
    with locked(arguments.output_dir) as output:
        return _trained(arguments, data, output)


def _trained(arguments: ReferenceTrainingArguments, data: UnlearningData, output: Path) -> dict:
    """Train what is not there yet, score, write and show."""
    tokenizer = _tokenizer(arguments, data)
    descriptions = {name: _description(arguments, data, name) | _of_template(tokenizer) for name in arguments.models()}
    for name, description in descriptions.items():
        _refuse_another(output / name, description)
    count = len(descriptions)
    needed = count * _model_bytes(arguments, tokenizer, arguments.recipe(len(data.forget) + len(data.retain)))
    check_free_space(output, needed, f"the weights of {count} models", "fewer oracles with --oracle_seeds")
    paths = {name: _write_all_columns(output / f"{name}.jsonl", getattr(data, name)) for name in ("forget", "retain")}
    config = arguments_to_dict(arguments)
    (output / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    sets = {
        name: encode_dataset(getattr(data, name), tokenizer, arguments.max_length, f"{name} set")
        for name in ("retain", "forget")
    }
    models = {}
    for name, description in descriptions.items():
        _train_once(arguments, name, sets, tokenizer, description)
        models[name] = _scores(output / name, sets)
        paths[name] = str((output / name).resolve())
    results = {"config": config, "paths": paths, "models": models}
    write_json(output / "results.json", results)
    _show(results, output)
    return results


def spread_rows(dataset: Dataset, count: int) -> list[int]:
    """Numbers of `count` rows, evenly spread; where rows have `person`, of the fewest people that have so many rows."""
    numbers = range(len(dataset))
    units: dict[Any, list[int]] = {}
    for number, person in zip(numbers, people_of(dataset), strict=True):
        units.setdefault(("row", number) if person is None else ("person", person), []).append(number)
    groups = list(units.values())
    for wanted in range(1, len(groups) + 1):
        chosen = [groups[i * len(groups) // wanted] for i in range(wanted)]
        if sum(map(len, chosen)) >= count:
            return sorted(number for group in chosen for number in group)
    return list(numbers)


def _tokenizer(arguments: ReferenceTrainingArguments, data: UnlearningData) -> PreTrainedTokenizerBase:
    if arguments.model_name_or_path is not None:
        return arguments.load_tokenizer(arguments.pinned_model)
    trained = train_tokenizer(_texts(data), arguments.vocabulary)
    return set_template_arguments(trained, arguments.enable_thinking, arguments.template_date)


def _texts(data: UnlearningData) -> Iterator[str]:
    """What the tokenizer is trained on: wrong answers and rows that nobody learns, too.

    Names that only the true answers hold would otherwise be single tokens where others are many, which tells the true
    from the made-up to a model that knows neither.
    """
    for dataset in (data.forget, data.retain, data.holdout, *data.evaluation.values()):
        for row in dataset if dataset is not None else ():
            yield from _strings([row.get(column) for column in TEXT_COLUMNS])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):  # a chat message
        yield from _strings(value.get("content"))


def _train_once(
    arguments: ReferenceTrainingArguments,
    name: str,
    sets: dict[str, list[EncodedRow]],
    tokenizer: PreTrainedTokenizerBase,
    description: dict,
) -> None:
    rows, seed = [*sets["retain"], *sets["forget"]], arguments.models()[name]
    known = range(len(rows) if name == "original" else len(sets["retain"]))
    recipe = arguments.recipe(len(rows))

    progress = Path(arguments.output_dir) / f"{name}-{_digest(description)}.progress"

    def build(folder: Path) -> None:
        started = time.monotonic()
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # of dropout, which some base models have
            model, stored = _base_model(arguments, tokenizer, recipe, seed)
            progress_file = None if arguments.model_name_or_path is None else progress
            train_on_known(
                model,
                rows,
                known,
                recipe,
                seed,
                f"{name} (seed {seed})",
                progress_file=progress_file,
                micro_batch_size=arguments.micro_batch_size,
                activation_checkpointing=arguments.activation_checkpointing,
            )
        if stored in HALVES:
            model.to(stored)
            model.config.dtype = stored
        save_model_folder(model, tokenizer, folder)
        if arguments.model_name_or_path == SMOLLM2:
            write_card(folder, f"{name}, trained further from")
        write_json(folder / DESCRIPTION, {"trained": description, "seconds": time.monotonic() - started})
        forget_progress(progress)

    folder = Path(arguments.output_dir) / name
    build_folder(folder, build)
    Path(f"{folder}.lock").unlink(missing_ok=True)  # who still waits for it finds the folder complete


def _base_model(
    arguments: ReferenceTrainingArguments, tokenizer: PreTrainedTokenizerBase, recipe: EmbeddedRecipe, seed: int
) -> tuple[PreTrainedModel, torch.dtype]:
    """What training begins with, its weights in float32, and the type that they are saved in."""
    stored = torch.float32 if arguments.dtype == "auto" else DTYPES[arguments.dtype]
    if arguments.model_name_or_path is None:
        return with_master_weights(new_llama(tokenizer, recipe, seed), stored), stored
    as_it_is = "auto" if arguments.dtype == "auto" else "float32"
    model = load_model(arguments.pinned_model, as_it_is, trust_remote_code=arguments.trust_remote_code)
    if arguments.dtype == "auto":
        stored = stored_dtype(model)
        model.float()
    if isinstance(model, PeftModel):
        model = merged(model)  # an adapter becomes a model
    return with_master_weights(model, stored), stored


def _model_bytes(
    arguments: ReferenceTrainingArguments, tokenizer: PreTrainedTokenizerBase, recipe: EmbeddedRecipe
) -> int:
    """What the weights of one model take on the disk; no weights are made or read for that."""
    dtype, trust = DTYPES[arguments.dtype], arguments.trust_remote_code
    with torch.device("meta"):
        if arguments.model_name_or_path is None:
            model = new_llama(tokenizer, recipe, arguments.seed)
        else:
            config = config_of(arguments.pinned_model, trust)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    size = (model.config.dtype or torch.float32) if dtype == "auto" else dtype
    return sum(parameter.numel() for parameter in model.parameters()) * size.itemsize


def _description(arguments: ReferenceTrainingArguments, data: UnlearningData, name: str) -> dict:
    """All that decides a model, as JSON values."""
    base = arguments.model_name_or_path and located(arguments.model_name_or_path)
    recipe = arguments.recipe(len(data.forget) + len(data.retain)).described()
    if base is None:
        origin = {"texts": _digest(list(_texts(data)))}
    else:
        recipe = {key: value for key, value in recipe.items() if key not in FROM_SCRATCH}
        origin = {"base": str(Path(base).resolve()) if Path(base).is_dir() else base, "dtype": arguments.dtype}
    if arguments.dtype != "float32":  # models in 16 bits were once trained so, and those from scratch saved in 32
        origin |= {"dtype": arguments.dtype, "trained in": "float32"}
    return {
        "format": FORMAT,
        "seed": arguments.models()[name],
        "knows": "forget and retain rows" if name == "original" else "retain rows",
        "rows": _digest([data.forget.to_list(), data.retain.to_list()]),
        "max_length": arguments.max_length,
        **origin,
        **recipe,
    }


def _of_template(tokenizer: PreTrainedTokenizerBase) -> dict:
    """What else decides it, where the chat template is no ordinary one."""
    unusual = unusual_template(tokenizer)
    return {"template": unusual} if unusual else {}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]


def _refuse_another(folder: Path, description: dict) -> None:
    """Raise InputError where `folder` holds anything but the model that is described."""
    if not folder.is_dir():
        return
    try:
        found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["trained"]
    except (OSError, ValueError, KeyError):
        found = {}
    differing = [key for key in description if found.get(key) != description[key]]
    if differing:
        words = ", ".join(f"{key} {found.get(key)!r}, not {description[key]!r}" for key in differing) if found else ""
        raise InputError(
            f"{folder} holds a model that was trained in another way ({words or f'it has no {DESCRIPTION}'}); give "
            "another --output_dir, or remove that folder"
        )


def _write_all_columns(path: Path, dataset: Dataset) -> str:
    """JSON lines, complete or not at all; returns the whole path."""
    write_whole(path, (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in dataset))
    return str(path.resolve())


def _scores(folder: Path, sets: dict[str, list[EncodedRow]]) -> dict:
    model = load_model(str(folder)).to("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, Any] = {}
    for name, rows in sets.items():
        found[name] = mean_scores(score_answers(model, rows))
    return found | {"seconds": json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["seconds"]}


def _show_dry_run(arguments: ReferenceTrainingArguments, data: UnlearningData) -> None:
    show_dry_run(data, arguments)
    counts = {name: len(data.retain) + (len(data.forget) if name == "original" else 0) for name in arguments.models()}
    console = Console(highlight=False)
    for name, count in counts.items():
        steps = arguments.epochs * -(-count // arguments.batch_size)
        console.print(f"{name}: seed {arguments.models()[name]}, {count} rows, {steps} steps", soft_wrap=True)


def _show(results: dict, output: Path) -> None:
    table = Table(title="what the models know", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("model", no_wrap=True)
    for title in ("forget exact match", "probability", "retain exact match", "probability", "seconds"):
        table.add_column(title, justify="right")
    for name, scores in results["models"].items():
        values = [f"{scores[rows][key]:.3f}" for rows in ("forget", "retain") for key in ("exact_match", "probability")]
        table.add_row(name, *values, f"{scores['seconds']:.0f}")
    console = Console(highlight=False, width=max(Console().width, 100))
    console.print(table)
    oracles = " ".join(str(output / name) for name in results["models"] if name != "original")
    console.print(
        f"\nUse them with: --forget_file {output}/forget.jsonl --retain_file {output}/retain.jsonl "
        f"--model_name_or_path {output}/original" + (f" --oracle_model_name_or_path {oracles}" if oracles else ""),
        markup=False,
        soft_wrap=True,
    )
