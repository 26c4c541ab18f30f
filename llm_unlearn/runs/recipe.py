"""What every recipe does around its trainer: parse, load, show, judge, attack, report.

A recipe is `Recipe.from_command_line(method)`, a trainer made of `trainer_arguments()`, and `run(trainer)`: that is
what `unlearn` does for a method's name. The steps of `run` can be called from other training code just as well.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.groups import AdapterArguments, DataArguments, parse_for_model
from llm_unlearn.arguments.parsing import arguments_to_dict, is_main_process, run_main
from llm_unlearn.data.alternates import REFUSAL, own_refusals
from llm_unlearn.data.collators import FORGET, PART_ROLES
from llm_unlearn.data.forms import TRANSPOSED
from llm_unlearn.errors import InputError
from llm_unlearn.examining.examination import Examination
from llm_unlearn.examining.preflight import check_loaded, check_model
from llm_unlearn.examining.results import make_results, reference_models, write_results, write_verdict
from llm_unlearn.examining.usage import forget_words
from llm_unlearn.examining.verdict import verdict_of
from llm_unlearn.files.all_processes import failing_together
from llm_unlearn.files.disk import check_free_space, check_output_dir
from llm_unlearn.files.run_files import pinned
from llm_unlearn.files.run_folder import locked, model_digests, move_aside
from llm_unlearn.hub.upload import check_ready, push_run
from llm_unlearn.methods import load_method
from llm_unlearn.methods.method import Method
from llm_unlearn.models.files import is_adapter
from llm_unlearn.models.judging import Records
from llm_unlearn.models.loading import use_all_cpu_threads
from llm_unlearn.models.precision import without_mixed_precision
from llm_unlearn.models.sharding import is_partitioned
from llm_unlearn.reporting.counterfactual_table import counterfactual_table
from llm_unlearn.reporting.page import write_report
from llm_unlearn.reporting.recorded import recorded_words
from llm_unlearn.reporting.tables import print_results
from llm_unlearn.reporting.verdict_table import print_verdict
from llm_unlearn.runs.examinations import checked_examination, settings_of
from llm_unlearn.runs.inside import audited
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.memory import attack_memory_words, bytes_to_write, memory_words, reference_words
from llm_unlearn.training.trainer import UnlearnTrainer

console = Console(highlight=False)

DESCRIPTION = """{summary}.

Trains an adapter (or, with --full_finetuning, all weights) on forget and retain rows, scores the result beside the
original and the oracle (a model that never saw the forget rows), attacks all three, and writes table, figure and JSON.

Example:
    llm-unlearn run {name}
    llm-unlearn run {name} --dry_run
    llm-unlearn run {name} --learning_rate 2e-4 --output_dir outputs/{name}-2e-4

Without --model_name_or_path it works in the embedded fictional world, whose small model has defaults of its own
(--dry_run shows them). A run's config.yaml repeats it: --config outputs/{name}/config.yaml.

Errors: bad arguments or data end the run with one line before anything heavy starts (exit code 2); a loss that diverges
ends it with the last good weights saved (exit code 3).
"""


@dataclass
class Recipe:
    """One run: what was asked for and what was loaded."""

    args: UnlearnConfig
    adapter_args: AdapterArguments
    examination: Examination
    model_path: str
    oracle_paths: list[str]

    @classmethod
    def from_command_line(
        cls,
        method: Method,
        argv: list[str] | None = None,
    ) -> Recipe:
        """Parse, then load and check the data and find the models.

        Raises:
            InputError: any of the arguments, files or data sets is not usable.
        """
        prepare_process()
        groups = (DataArguments, AdapterArguments, AttackArguments, method.config)
        data_args, adapter_args, attack_args, args = parse_for_model(
            groups,
            argv,
            description=DESCRIPTION.format(name=method.name, summary=method.summary),
            prog=f"llm-unlearn run {method.name}",
            defaults={"output_dir": method.defaults["output_dir"]},
            embedded_defaults=method.defaults,
            embedded_full_defaults=method.full_defaults,
        )
        if (started := int(os.environ.get("WORLD_SIZE", "1"))) != args.world_size:
            raise InputError(
                f"{started} processes were started, but each of them would train alone (world_size={args.world_size}): "
                "on a machine without GPUs, give --use_cpu"
            )
        if args.push_to_hub and not data_args.dry_run:
            check_ready(args.hub_model_id, args.hub_token)
        if args.push == "merged" and adapter_args.full_finetuning:
            raise InputError("--push merged puts an adapter into its base model, and --full_finetuning trains none")
        check_output_dir(args.output_dir)
        if TRANSPOSED in (data_args.augment_forms or ()) and FORGET in method.trainer.roles:
            raise InputError(
                f"augment_forms {TRANSPOSED} asks questions whose answers are other people's, and {method.name} would "
                "train against those: take it with counterfactual --guess_source teacher, or leave it out"
            )
        data = data_args.load_data()
        if data.retain is None and args.retain_loss != "none":
            raise InputError(
                f"retain_loss={args.retain_loss!r} needs rows to keep: give --retain_file (beside --forget_file), or "
                "--retain_loss none to forget without protecting anything"
            )
        model_path, oracle_paths = data_args.model_paths()
        if is_adapter(model_path):
            raise InputError(
                f"model_name_or_path={model_path!r} is an adapter, and a recipe trains another one or all weights: "
                "merge it into its base first (merge_and_unload() and save_pretrained() of its PeftModel)"
            )
        examination = checked_examination(
            data_args,
            attack_args,
            data,
            reference_models(model_path, oracle_paths),
            **settings_of(args),
            output_dir=args.output_dir,
            own_refusals=own_refusals(getattr(args, "replace_with", REFUSAL)),
        )
        return cls(args, adapter_args, examination, model_path, oracle_paths)

    def trainer_arguments(self) -> dict:
        """The arguments of an `UnlearnTrainer`."""
        return {
            "model": self.examination.load_model(self.model_path, self.adapter_args.bits),
            "args": self.args,
            "forget_dataset": self.examination.data.trained_forget,
            "retain_dataset": self.examination.data.retain,
            "general_dataset": self.examination.data.trained_general,
            "processing_class": self.examination.processing_class,
            "peft_config": self.adapter_args.peft_config(),
            "near_duplicates": self.examination.data_args.near_duplicates,
        }

    def run(self, trainer: UnlearnTrainer) -> dict | None:
        """Show, train, save, judge, attack, report; returns the results, which are also in output_dir/results.json."""
        self.preflight(trainer)
        if self.examination.data_args.dry_run:
            return self.dry_run(trainer)
        self.banner(trainer)
        check_free_space(self.args.output_dir, bytes_to_write(trainer))
        with claimed(self.args.output_dir) as earlier:
            if earlier is not None:
                self._say(f"  earlier    what an earlier run left there is now in {escape(str(earlier))}")
            with self.examination.timed("unlearn"):
                trainer.train(resume_from_checkpoint=self.args.resume_from_checkpoint)
            return self.finish(trainer)

    def preflight(self, trainer: UnlearnTrainer) -> None:
        """Find out in seconds what the models cannot do.

        Raises:
            InputError: as `preflight.check_model`.
        """
        references = reference_models(self.model_path, self.oracle_paths)
        known = []
        if not is_partitioned(trainer.model):  # else no process has it whole, and it is read again, as it will be
            check_model(self.examination.asked, trainer.model, f"model_name_or_path {self.model_path!r}")
            known = [self.model_path]
        check_loaded(self.examination.asked, references, known)

    # ---- showing ---------------------------------------------------------------------------------------------------

    def banner(self, trainer: UnlearnTrainer) -> None:
        """What is about to happen, in a few lines."""
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        total = trainer.model.num_parameters()  # weights in 4 bits, too, which are stored in pairs
        args, data = self.args, self.examination.data
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        drawn = {name: rows for name, rows in trainer.row_sets.items() if rows}
        longest = max(len(row["input_ids"]) for row in itertools.chain(*drawn.values()))
        counts = [f"{len(data.forget)} forget", f"{len(data.retain) if data.retain is not None else 0} retain"]
        counts += [f"{len(trainer.row_sets['general'])} general"] if "general" in drawn else []
        limits = ", ".join(f"forget {name} <= {limit:g}" for name, limit in args.stopping_thresholds.items())
        self._say(f"[bold]{trainer.method_name}[/] on {escape(self.model_path)}")
        self._say(f"  data       {escape(data.source)}: {', '.join(counts)} rows")
        self._say(f"  facts      {escape(forget_words(data, self.examination.attack_args))}")
        if not trainer.row_sets["general"]:
            fix = "--general_data FILE" if data.general is None else "general_weight is 0"
            self._say(f"  general    none: abilities beyond the retain rows are not protected; {fix}")
        self._say(f"  trainable  {trainable:,} of {total:,} parameters ({trainable / total:.1%}), {args.device}")
        self._say(
            f"  batch      {' + '.join(f'{rows} {name}' for name in drawn)} rows a step, longest row {longest} tokens"
        )
        self._say(f"  reference  {reference_words(trainer)}")
        self._say(f"  memory     {memory_words(trainer)}")
        if self.examination.trains_attackers:
            budget = self.examination.attack_args.budget("adversarial_reinjection")
            self._say(f"  attacks    {attack_memory_words(trainer, budget)}")
        self._say(f"  stops at   {limits or 'no forget threshold'}, or after {args.num_train_epochs:g} epochs")

    def dry_run(self, trainer: UnlearnTrainer) -> None:
        """Print the configuration, one decoded batch with its label mask and the banner; train nothing."""
        console.print(yaml.safe_dump(self.configuration(), sort_keys=False), markup=False)
        console.print("First batch: [bold]answer tokens, on which the loss is taken, in brackets[/]\n", soft_wrap=True)
        batch = next(iter(trainer.get_train_dataloader()))
        decode = self.examination.processing_class.decode
        names = {role: name for name, role in PART_ROLES.items()}
        for role, ids, labels, mask in zip(
            batch["roles"], batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True
        ):
            pairs = zip(ids[mask].tolist(), labels[mask].tolist(), strict=True)
            text = "".join(f"[{decode([token])}]" if label != -100 else decode([token]) for token, label in pairs)
            name = names[int(role)]
            console.print(f"{name}  {text!r}", markup=False, soft_wrap=True)
        self.banner(trainer)

    def configuration(self) -> dict:
        """The full configuration of the run, without secrets."""
        return arguments_to_dict(self.examination.data_args, self.adapter_args, self.examination.attack_args, self.args)

    def _say(self, line: str) -> None:
        if is_main_process():
            console.print(line, soft_wrap=True)

    # ---- judging ---------------------------------------------------------------------------------------------------

    def finish(self, trainer: UnlearnTrainer) -> dict:
        """Save, judge, attack and report a trained model."""
        output = Path(self.args.output_dir)
        unlearned_path = output / ("model" if self.adapter_args.full_finetuning else "adapter")
        with failing_together(unlearned_path):
            trainer.save_model(str(unlearned_path))
        digests = model_digests(unlearned_path)
        # Where this process has but a shard, or base weights rounded to 4 bits, the saved model is judged: that is what
        # people will use, and each process needs it whole for its attacks.
        unlearned = str(unlearned_path)
        if trainer.is_whole:
            unlearned = without_mixed_precision(trainer.accelerator.unwrap_model(trainer.model))
        examined, records = self.examination.examine(self.model_path, self.oracle_paths, unlearned)
        if not trainer.is_world_process_zero():
            return {}
        inside = audited(self.examination, self.model_path, self.oracle_paths, unlearned)
        results = make_results(
            output,
            trainer.described,
            self.args.seed,
            self.configuration(),
            models=(pinned(self.model_path, trainer.model.config), self.oracle_paths, str(unlearned_path)),
            rows={"forget": self.examination.data.forget, "retain": self.examination.data.retain},
            data=self.examination.data_args.data,
            weights=digests,
            training={
                "steps": trainer.state.global_step,
                "stopped_by": trainer.stopped_by or "end of training",
                "log": trainer.state.log_history,
            },
            **examined,
            **inside,
            seconds=self.examination.seconds,
        )
        show_results(results, conclude(results, records, output))
        if (best := recorded_words(results["config"])) is not None:
            console.print(f"\n{best}", markup=False, soft_wrap=True)
        words = f"\nEverything is in {output}/: open report.html; results.json, records/, {unlearned_path.name}/"
        console.print(words, markup=False)
        if self.args.push_to_hub:
            pushed = push_run(output, **self.args.push_arguments)
            console.print(f"Pushed: {pushed.commit_url}", markup=False, soft_wrap=True)
        return results


def unlearn(method: Method | str | None = None) -> None:
    """The run of a method as the command line asks for it; ends this process with an exit code if it fails.

    Args:
        method: its record, or its name; None: the command line begins with the name.
    """
    name, *argv = (sys.argv[1:] or [""]) if method is None else [method, *sys.argv[1:]]

    def main() -> None:
        record = name if isinstance(name, Method) else load_method(name)
        recipe = Recipe.from_command_line(record, argv)
        recipe.run(record.trainer(**recipe.trainer_arguments()))

    run_main(main)


def prepare_process() -> None:
    """What every command does first."""
    use_all_cpu_threads()
    # PEFT 0.21 still reads the name that transformers 5.23 deprecates; users can do nothing about it.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


@contextlib.contextmanager
def alone(output_dir: str) -> Iterator[None]:
    """Within this scope, which every process enters, no other run is in the folder.

    Raises:
        InputError: another run is.
    """
    with contextlib.ExitStack() as held:
        with failing_together():
            if is_main_process():
                held.enter_context(locked(output_dir))
        yield


@contextlib.contextmanager
def claimed(output_dir: str) -> Iterator[Path | None]:
    """As `alone`; yields where what an earlier run left was moved."""
    with alone(output_dir):
        earlier = None
        with failing_together():
            if is_main_process():
                earlier = move_aside(Path(output_dir))
        yield earlier


def conclude(results: dict, records: dict[str, Records], output: Path) -> dict:
    """Write what was measured, the verdict that follows from it, and the page that shows both; returns the verdict."""
    write_results(output, results, records)
    verdict = verdict_of(results, records)
    write_verdict(output, verdict)
    write_report(output)
    return verdict


def show_results(results: dict, verdict: dict) -> None:
    """Print all scores and what follows from them."""
    print_results(results)
    if "unlearned" in results["scores"]:
        print_verdict(verdict)
    elif results["counterfactual"]:
        Console(highlight=False, width=max(Console().width, 100)).print(counterfactual_table(results["counterfactual"]))
