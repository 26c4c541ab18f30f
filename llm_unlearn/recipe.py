"""What every recipe does around its trainer: parse, load, show, judge, attack, report.

A recipe is `Recipe.from_command_line(...)`, a trainer made of `trainer_arguments()`, and `run(trainer)`. The steps of
`run` can be called from other training code just as well.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.arguments import arguments_to_dict, is_main_process, parse_arguments
from llm_unlearn.attacks import run_attack
from llm_unlearn.config import UnlearnConfig
from llm_unlearn.data import UnlearningData, question_text, row_format, split_row
from llm_unlearn.data.instructions import load_instructions
from llm_unlearn.embedded import remember
from llm_unlearn.judging import Records, judge_rows, summarize
from llm_unlearn.modeling import load_model, load_tokenizer, use_all_cpu_threads
from llm_unlearn.recipe_arguments import AdapterArguments, AttackArguments, DataArguments
from llm_unlearn.reporting.figures import recovery_figure
from llm_unlearn.reporting.tables import print_results
from llm_unlearn.trainer import UnlearnTrainer

console = Console(highlight=False)


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

        data = data_args.load_data()
        model_path, oracle_paths = data_args.model_paths()
        recipe = cls(
            args, data_args, adapter_args, attack_args, data, model_path, oracle_paths, load_tokenizer(model_path)
        )
        recipe.seconds["prepare"] = time.monotonic() - started
        return recipe

    def load_model(self, path: str | None = None) -> PreTrainedModel:
        """A fresh copy of the original model, or the model at `path`, on the run's device."""
        return load_model(path or self.model_path, self.data_args.dtype).to(self.args.device)

    def trainer_arguments(self) -> dict:
        """The arguments of an `UnlearnTrainer`."""
        return {
            "model": self.load_model(),
            "args": self.args,
            "forget_dataset": self.data.forget,
            "retain_dataset": self.data.retain,
            "processing_class": self.processing_class,
            "peft_config": self.adapter_args.peft_config(),
        }

    def run(self, trainer: UnlearnTrainer) -> dict | None:
        """Show, train, save, judge, attack, report; returns the results, which are also in output_dir/results.json."""
        if self.data_args.dry_run:
            return self.dry_run(trainer)
        self.banner(trainer)
        with self.timed("unlearn"):
            trainer.train(resume_from_checkpoint=self.args.resume_from_checkpoint)
        return self.finish(trainer)

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
        self._say(
            f"  data       {escape(self.data.source)}: {len(self.data.forget)} forget, {retain_count} retain rows"
        )
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
        """Save, judge, attack and report a trained model."""
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
            results["scores"][name] = summarize(records[name])
            for attack in self.attack_args.attacks:
                results["attacks"][attack][name] = self.attack(attack, model, name, path)
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
            plain = self.data.retain.remove_columns(
                [c for c in ("perturbed_answer",) if c in self.data.retain.column_names]
            )
            records |= judge_rows(model, self.processing_class, plain, "retain", generate=False, **judge)
        return records

    def attack(self, attack: str, model: PreTrainedModel, name: str, path: str | None) -> dict:
        """Run one attack on a copy of `model`; outcomes of embedded reference models are remembered."""
        arguments, budget = self.attack_args, self.attack_args.budget(attack)

        def run() -> dict:
            return run_attack(
                attack,
                model,
                self.processing_class,
                self.data,
                budget,
                instructions=load_instructions(arguments.benign_data, self.data_args.embedded_size),
                retain_rows=arguments.attack_retain_rows,
                max_length=self.args.max_length,
                title=f"{attack.replace('_', ' ')} of {name}",
            )

        key = [attack, self.data.source, asdict(budget), arguments.attack_retain_rows, self.args.max_length]
        with self.timed(attack):
            return run() if path is None or arguments.benign_data != "embedded" else remember(path, key, run)

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
