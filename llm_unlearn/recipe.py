"""What every recipe does around its trainer: parse, load, show, judge, attack, report.

A recipe reads `Recipe.from_command_line(...)`, builds its trainer from the fields of that object, trains, and calls
`finish`. Everything here can be called from other training code just as well.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml
from peft import LoraConfig
from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.arguments import arguments_to_dict, is_main_process, parse_arguments
from llm_unlearn.attacks import AttackBudget, adversarial_reinjection, benign_relearning
from llm_unlearn.config import UnlearnConfig
from llm_unlearn.data import (
    UnlearningData,
    encode_dataset,
    load_unlearning_data,
    question_text,
    row_format,
    split_row,
)
from llm_unlearn.data.instructions import load_instructions
from llm_unlearn.embedded import embedded_model
from llm_unlearn.errors import InputError
from llm_unlearn.judging import Records, judge_rows
from llm_unlearn.modeling import load_model, load_tokenizer, use_all_cpu_threads
from llm_unlearn.reporting.figures import recovery_figure
from llm_unlearn.reporting.tables import print_results
from llm_unlearn.trainer import UnlearnTrainer

ATTACKS = ("adversarial_reinjection", "benign_relearning")
console = Console(highlight=False)


@dataclass
class DataArguments:
    """Which model forgets what."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or local folder; default: the embedded model of the fictional world."}
    )
    oracle_model_name_or_path: list[str] | None = field(
        default=None, metadata={"help": "Models retrained without the forget data (one or more), to compare with."}
    )
    data: str | None = field(
        default=None,
        metadata={"help": "fictional[:tiny|small|medium] (default), locuslab/TOFU, or a folder with TOFU's files."},
    )
    forget_split: str | None = field(default=None, metadata={"help": "forget01, forget05 or forget10 (default)."})
    retain_split: str | None = field(default=None, metadata={"help": "Default: the complement of forget_split."})
    forget_file: str | None = field(
        default=None, metadata={"help": "Your own rows to forget: JSON, JSON lines, CSV or Parquet; instead of --data."}
    )
    retain_file: str | None = field(default=None, metadata={"help": "Your own rows to keep; goes with --forget_file."})
    dtype: str = field(
        default="auto",
        metadata={"help": "Weights' type.", "choices": ["auto", "float32", "bfloat16", "float16"]},
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Show configuration, one decoded batch and parameter counts, then stop."}
    )


@dataclass
class AdapterArguments:
    """How the weights change: LoRA on every linear map of the blocks, or full fine-tuning."""

    full_finetuning: bool = field(default=False, metadata={"help": "Train all weights instead of a LoRA adapter."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the LoRA matrices."})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA scaling is lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapter's input."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of the modules to adapt; default: every linear map of the blocks."}
    )

    def peft_config(self) -> LoraConfig | None:
        """The LoRA configuration, or None for full fine-tuning."""
        if self.full_finetuning:
            return None
        return LoraConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.lora_target_modules or "all-linear",
            task_type="CAUSAL_LM",
        )


@dataclass
class AttackArguments:
    """Attacks on the original, the oracle and the unlearned model alike."""

    attacks: list[str] = field(
        default_factory=lambda: list(ATTACKS),
        metadata={"help": "adversarial_reinjection and/or benign_relearning, or none to skip."},
    )
    reinjection_learning_rates: list[float] = field(
        default_factory=lambda: [1e-5, 5e-6, 1e-6], metadata={"help": "Attacker's grid; the strongest counts."}
    )
    benign_learning_rates: list[float] = field(
        default_factory=lambda: [1e-5, 1e-6, 1e-7], metadata={"help": "Attacker's grid; the strongest counts."}
    )
    reinjection_fraction: float = field(default=0.3, metadata={"help": "Share of the forget facts that is reinjected."})
    attack_steps: int = field(default=60, metadata={"help": "Optimizer steps of each attack."})
    attack_batch_size: int = field(default=8, metadata={"help": "Rows per step of an attack."})
    attack_score_every: int = field(default=10, metadata={"help": "Steps between two points of the recovery curve."})
    attack_seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the reinjected facts and the order of rows."}
    )
    attack_retain_rows: int = field(
        default=100, metadata={"help": "Retain rows (evenly spread) that are scored along the recovery curve."}
    )
    benign_data: str = field(
        default="embedded", metadata={"help": "Instructions for benign tuning: embedded, or an Alpaca-format file."}
    )

    def __post_init__(self):
        if self.attacks == ["none"]:
            self.attacks = []
        for name in self.attacks:
            if name not in ATTACKS:
                raise ValueError(f"attacks: {name!r} is unknown; choose from {', '.join(ATTACKS)}, or none")

    def budget(self, attack: str) -> AttackBudget:
        """What the attacker may spend on one attack."""
        benign = attack == "benign_relearning"
        return AttackBudget(
            learning_rates=tuple(self.benign_learning_rates if benign else self.reinjection_learning_rates),
            fraction=self.reinjection_fraction,
            seeds=tuple(self.attack_seeds),
            steps=self.attack_steps,
            batch_size=self.attack_batch_size,
            score_every=self.attack_score_every,
        )


@dataclass
class Recipe:
    """One run: what was asked for, what was loaded, and what has been measured so far."""

    args: UnlearnConfig
    data_args: DataArguments
    adapter_args: AdapterArguments
    attack_args: AttackArguments
    data: UnlearningData
    model_path: str
    oracle_paths: list[str]
    processing_class: PreTrainedTokenizerBase
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_command_line(
        cls, config_class: type[UnlearnConfig], description: str, embedded_defaults: dict, argv: list[str] | None = None
    ) -> Recipe:
        """Parse, then load and check the data and find the models.

        Args:
            embedded_defaults: values of fields where the embedded model is used: they take the place of the dataclass
                defaults, which suit models a thousand times its size.

        Raises:
            InputError: any of the arguments, files or data sets is not usable.
        """
        started = time.monotonic()
        use_all_cpu_threads()
        groups = (DataArguments, AdapterArguments, AttackArguments, config_class)
        parse = {"argv": argv, "description": description}
        data_args, *others = parse_arguments(groups, **parse)
        if data_args.model_name_or_path is None:
            data_args, *others = parse_arguments(groups, **parse, defaults=embedded_defaults)
        adapter_args, attack_args, args = others

        data = load_unlearning_data(
            data_args.data,
            forget_split=data_args.forget_split,
            retain_split=data_args.retain_split,
            forget_file=data_args.forget_file,
            retain_file=data_args.retain_file,
        )
        model_path, oracle_paths = _model_paths(data_args)
        recipe = cls(
            args, data_args, adapter_args, attack_args, data, model_path, oracle_paths, load_tokenizer(model_path)
        )
        recipe.seconds["prepare"] = time.monotonic() - started
        return recipe

    def load_model(self, path: str | None = None) -> PreTrainedModel:
        """A fresh copy of the original model, or the model at `path`, on the run's device."""
        return load_model(path or self.model_path, self.data_args.dtype).to(self.args.device)

    # ---- showing ---------------------------------------------------------------------------------------------------

    def banner(self, trainer: UnlearnTrainer) -> None:
        """What is about to happen, in a few lines."""
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in trainer.model.parameters())
        args = self.args
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        longest = max(len(row["input_ids"]) for row in [*trainer.forget_rows, *(trainer.retain_rows or [])])
        retain_count = len(self.data.retain) if self.data.retain is not None else 0
        limits = ", ".join(f"forget {name} <= {limit:g}" for name, limit in args.stopping_thresholds.items())
        self._say(f"[bold]{trainer.method_name}[/] on {escape(self.model_path)}")
        self._say(f"  data       {escape(self.data.source)}: {len(self.data.forget)} forget, {retain_count} retain rows")
        self._say(f"  trainable  {trainable:,} of {total:,} parameters ({trainable / total:.1%}), {args.device}")
        self._say(f"  batch      {rows} forget + {rows} retain rows a step, longest row {longest} tokens")
        self._say(f"  stops at   {limits or 'no forget threshold'}, or after {args.num_train_epochs:g} epochs")

    def dry_run(self, trainer: UnlearnTrainer) -> None:
        """Print the configuration, one decoded batch with its label mask and the banner; train nothing."""
        console.print(yaml.safe_dump(self.configuration(), sort_keys=False), markup=False)
        console.print("First batch: [bold]answer tokens, on which the loss is taken, in brackets[/]\n", soft_wrap=True)
        batch = next(iter(trainer.get_train_dataloader()))
        for role, ids, labels, mask in zip(
            batch["roles"], batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
        ):
            pieces = [
                f"[{self.processing_class.decode([token])}]" if label != -100 else self.processing_class.decode([token])
                for token, label in zip(ids[mask.bool()].tolist(), labels[mask.bool()].tolist(), strict=True)
            ]
            console.print(f"{'forget' if role == 0 else 'retain'}  {''.join(pieces)!r}", markup=False, soft_wrap=True)
        self.banner(trainer)

    def configuration(self) -> dict:
        """The full configuration of the run, without secrets."""
        return arguments_to_dict(self.data_args, self.adapter_args, self.attack_args, self.args)

    def _say(self, line: str) -> None:
        if is_main_process():
            console.print(line, soft_wrap=True)

    @contextmanager
    def timed(self, stage: str):
        """Adds the seconds spent inside to `seconds[stage]`."""
        started = time.monotonic()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - started, 2)

    # ---- judging ---------------------------------------------------------------------------------------------------

    def finish(self, trainer: UnlearnTrainer) -> dict:
        """Save, judge, attack and report; returns the results, which are also in `output_dir`/results.json."""
        output = Path(self.args.output_dir)
        unlearned_path = output / ("model" if self.adapter_args.full_finetuning else "adapter")
        trainer.save_model(str(unlearned_path))
        trainer.accelerator.wait_for_everyone()
        if not trainer.is_world_process_zero():
            return {}
        results = {
            "method": trainer.method_name,
            "seed": self.args.seed,
            "config": self.configuration(),
            "paths": self._write_paths(output, unlearned_path),
            "training": {
                "steps": trainer.state.global_step,
                "stopped_by": trainer.stopped_by or "end of training",
                "log": trainer.state.log_history,
            },
            "scores": {},
            "attacks": {name: {} for name in self.attack_args.attacks},
        }
        unlearned = trainer.accelerator.unwrap_model(trainer.model)
        records = {}
        for name, path in self._judged_models():
            model = unlearned if path is None else self.load_model(path)
            with self.timed("score"):
                records[name] = self.judge(model)
            attacks = {attack: self.attack(attack, model, name) for attack in self.attack_args.attacks}
            _add_model(results, name, summarize(records[name]), attacks)
        results["seconds"] = self.seconds
        write_results(results, records, output)
        print_results(results)
        console.print(f"\nEverything is in {output}: results.json, recovery.png, config.yaml, {unlearned_path.name}/")
        return results

    def _judged_models(self) -> list[tuple[str, str | None]]:
        """(name, path) of the models to judge; the unlearned one is in memory."""
        oracles = [("oracle", path) for path in self.oracle_paths[:1]]
        oracles += [(f"oracle_{i}", path) for i, path in enumerate(self.oracle_paths[1:], start=1)]
        return [("original", self.model_path), *oracles, ("unlearned", None)]

    def judge(self, model: PreTrainedModel) -> Records:
        """Per-row records on the forget and the retain rows; texts are generated for the forget rows alone."""
        judge = {"batch_size": max(self.args.per_device_eval_batch_size, 32), "max_length": self.args.max_length}
        records = judge_rows(model, self.processing_class, self.data.forget, "forget", **judge)
        if self.data.retain is not None:
            plain = self.data.retain.remove_columns([c for c in ("perturbed_answer",) if c in self.data.retain.column_names])
            records |= judge_rows(model, self.processing_class, plain, "retain", generate=False, **judge)
        return records

    def attack(self, attack: str, model: PreTrainedModel, name: str) -> dict:
        """Run one attack on a copy of `model`."""
        forget = encode_dataset(self.data.forget, self.processing_class, self.args.max_length, "forget set")
        retain_data = self.data.retain if self.data.retain is not None else self.data.forget
        spread = max(1, len(retain_data) // self.attack_args.attack_retain_rows)
        retain_data = retain_data.select(range(0, len(retain_data), spread))
        retain = encode_dataset(retain_data, self.processing_class, self.args.max_length, "retain set")
        budget = self.attack_args.budget(attack)
        title = f"{attack.replace('_', ' ')} of {name}"
        with self.timed(attack):
            if attack == "benign_relearning":
                instructions = load_instructions(self.attack_args.benign_data)
                rows = encode_dataset(instructions, self.processing_class, self.args.max_length, "instructions")
                return benign_relearning(model, rows, forget, retain, budget, title)
            columns = self.data.forget.column_names
            fact_ids = self.data.forget["fact_id"] if "fact_id" in columns else None
            return adversarial_reinjection(model, forget, retain, budget, fact_ids, title)

    def _write_paths(self, output: Path, unlearned_path: Path) -> dict:
        """Where everything is, so that anyone can judge this run again from outside."""
        paths = {
            "original": self.model_path,
            "oracles": self.oracle_paths,
            "unlearned": str(unlearned_path.resolve()),
        }
        for name, dataset in (("forget", self.data.forget), ("retain", self.data.retain)):
            if dataset is None:
                continue
            form = row_format(dataset.column_names)
            with open(output / f"{name}.jsonl", "w", encoding="utf-8") as file:
                for row in dataset:
                    prompt, answer = split_row(row, form)
                    kept = {key: row[key] for key in ("fact_id",) if key in row}
                    line = {"question": question_text(prompt), "answer": answer} | kept
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
            paths[name] = str((output / f"{name}.jsonl").resolve())
        return paths


def _model_paths(data_args: DataArguments) -> tuple[str, list[str]]:
    """The original and its oracles; the embedded ones are trained on first use."""
    oracles = data_args.oracle_model_name_or_path
    if data_args.model_name_or_path is not None:
        return data_args.model_name_or_path, oracles or []
    spec = data_args.data or "fictional"
    if data_args.forget_file or not spec.startswith("fictional"):
        raise InputError(
            f"--data {spec} needs --model_name_or_path: the embedded model knows only the fictional world"
            if not data_args.forget_file
            else "--forget_file needs --model_name_or_path: the embedded model knows only the fictional world"
        )
    size = spec.partition(":")[2] or "small"
    original = embedded_model(size)
    return str(original), oracles or [str(embedded_model(size, without=data_args.forget_split or "forget10"))]


def summarize(records: Records) -> dict[str, float]:
    """The scores of `results.json` from per-row records."""
    names = {
        "forget_exact_match": "forget_exact_match",
        "forget_probability": "forget_Q_A_Prob",
        "retain_exact_match": "retain_exact_match",
        "retain_probability": "retain_Q_A_Prob",
        "forget_rouge_l": "forget_Q_A_ROUGE",
        "forget_truth_ratio": "forget_truth_ratio",
    }
    return {name: records[metric]["agg_value"] for name, metric in names.items() if metric in records}


def _add_model(results: dict, name: str, scores: dict, attacks: dict[str, dict]) -> None:
    """The first oracle is `oracle`; further ones stand beside it as `oracle_1`, `oracle_2`, ..."""
    results["scores"][name] = scores
    for attack, outcome in attacks.items():
        results["attacks"][attack][name] = outcome


def write_results(results: dict, records: dict[str, Records], output: Path) -> None:
    """Write results.json, records/<model>.json (per-row values), config.yaml and recovery.png."""
    (output / "records").mkdir(parents=True, exist_ok=True)
    for name, by_metric in records.items():
        _write_json(output / "records" / f"{name}.json", by_metric)
    _write_json(output / "results.json", results)
    (output / "config.yaml").write_text(yaml.safe_dump(results["config"], sort_keys=False), encoding="utf-8")
    if any(results["attacks"].values()):
        recovery_figure(results, output / "recovery.png")


def _write_json(path: Path, value: dict) -> None:
    """Complete or not at all: a reader never sees half a file."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    unfinished.replace(path)
