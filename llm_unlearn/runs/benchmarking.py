"""What the attack benchmarks share: one unlearned model beside its references, or methods against each other."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from rich.console import Console

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.groups import AdapterArguments, DataArguments, parse_for_model
from llm_unlearn.arguments.parsing import arguments_to_dict, is_main_process
from llm_unlearn.arguments.ranges import COUNT, COUNT_OR_NONE, LENGTH, check_ranges
from llm_unlearn.data import UnlearningData
from llm_unlearn.data.alternates import own_refusals
from llm_unlearn.errors import InputError
from llm_unlearn.examining.examination import COUNTERFACTUAL, Examination
from llm_unlearn.examining.preflight import check_loaded
from llm_unlearn.examining.results import make_results, reference_models
from llm_unlearn.examining.usage import forget_words
from llm_unlearn.files.disk import check_output_dir
from llm_unlearn.files.run_folder import locked, model_digests
from llm_unlearn.files.whole import write_json
from llm_unlearn.models.embedded import EMBEDDED_DEFAULTS
from llm_unlearn.models.files import check_model_path
from llm_unlearn.reporting.robustness import report_robustness
from llm_unlearn.runs.examinations import checked_examination, settings_of
from llm_unlearn.runs.inside import audited
from llm_unlearn.runs.recipe import claimed, conclude, prepare_process, show_results
from llm_unlearn.runs.robustness import Robustness, RobustnessArguments, RobustnessConfig
from llm_unlearn.runs.sharing import become_worker

# In the embedded world; the retain weight is that of Ssiuu's recipe, the largest of all.
ROBUSTNESS_DEFAULTS = {"learning_rates": [3e-4, 1e-3, 3e-3], "retain_weight": 60.0}
EMBEDDED_FULL_LEARNING_RATES = [3e-5, 1e-4, 3e-4]


@dataclass
class ReferenceArguments(DataArguments):
    """Which models are compared on what; `model_name_or_path` is the original."""

    oracle_seeds: int = field(
        default=3, metadata={"help": "Oracles of the embedded world, each from another seed; trained on first use."}
    )

    def __post_init__(self):
        check_ranges(self, {"oracle_seeds": COUNT_OR_NONE})

    @property
    def embedded_oracles(self) -> int:
        return self.oracle_seeds


@dataclass
class BenchmarkArguments(ReferenceArguments):
    """Which models are examined on what; `model_name_or_path` is the original."""

    unlearned_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Adapter or model folder, or hub id, to examine; default: only original and oracles."},
    )
    output_dir: str = field(default="outputs/benchmark", metadata={"help": "Folder that receives everything written."})
    refusals: str | None = field(
        default=None,
        metadata={
            "help": "File with a sentence in each line that counts as a refusal, beside the usual ones: what the model "
            "was taught to say with --replace_with FILE."
        },
    )
    max_length: int | None = field(default=1024, metadata={"help": "Rows are cut to this many tokens."})
    batch_size: int = field(default=64, metadata={"help": "Rows that are scored at once."})

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, {"batch_size": COUNT, "max_length": LENGTH})

    def model_paths(self) -> tuple[str, list[str]]:
        if self.unlearned_model_name_or_path is not None:
            check_model_path(self.unlearned_model_name_or_path, self.trust_remote_code)
        return super().model_paths()

    def models(self) -> dict[str, str]:
        """Name -> folder or hub id: original, oracle, oracle_1, ... and, where one is given, unlearned."""
        models = reference_models(*self.model_paths())
        if self.unlearned_model_name_or_path is not None:
            models["unlearned"] = self.unlearned_model_name_or_path
        return models


def show_dry_run(data: UnlearningData, *groups: object) -> None:
    """Print the configuration and what would be examined: the `--dry_run` of benchmarks."""
    console = Console(highlight=False)
    console.print(yaml.safe_dump(arguments_to_dict(*groups), sort_keys=False), markup=False)
    sets = {"forget": data.forget, "retain": data.retain, "holdout": data.holdout, **data.evaluation, **data.queries}
    counts = ", ".join(f"{len(rows)} {name}" for name, rows in sets.items() if rows is not None)
    console.print(f"{data.source}: {counts} rows", markup=False, soft_wrap=True)
    _show_forget_rows(data, next((group for group in groups if isinstance(group, AttackArguments)), None))


def _show_forget_rows(data: UnlearningData, attack_args: AttackArguments | None) -> None:
    """One line on what is to be forgotten, and how much of it each attack teaches and scores."""
    if is_main_process():
        words = f"forget: {forget_words(data, attack_args)}"
        Console(highlight=False).print(words, markup=False, soft_wrap=True)


def attack_benchmark(attacks: list[str], counterfactual: bool, description: str, argv: list[str] | None = None) -> dict:
    """Run attacks on original, oracles and, if given, an unlearned model; writes and returns the results.

    Args:
        attacks: what is run unless `--attacks` says otherwise.
        counterfactual: likewise, of the counterfactual control.
    """
    prepare_process()
    arguments, attack_args = parse_for_model(
        (BenchmarkArguments, AttackArguments),
        argv,
        description=description,
        defaults={
            "attacks": attacks,
            "counterfactual": counterfactual,
            "output_dir": "outputs/benchmark" if attacks else "outputs/counterfactual",
        },
        embedded_defaults={name: value for name, value in EMBEDDED_DEFAULTS.items() if "learning_rates" in name},
    )
    check_output_dir(arguments.output_dir)
    data = arguments.load_data()
    if arguments.dry_run:
        show_dry_run(data, arguments, attack_args)
        return {}
    if attack_args.audits and arguments.unlearned_model_name_or_path is None:
        raise InputError(
            f"audits: {' '.join(attack_args.audits)}: a verdict takes them of an unlearned model; give "
            "--unlearned_model_name_or_path (of original and oracles alone: llm-unlearn run audits)"
        )
    models = arguments.models()
    original, oracles = arguments.model_paths()
    examination = checked_examination(
        arguments,
        attack_args,
        data,
        models,
        device=f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu",
        max_length=arguments.max_length,
        batch_size=arguments.batch_size,
        output_dir=arguments.output_dir,
        own_refusals=own_refusals(arguments.refusals, "refusals") if arguments.refusals else (),
    )
    if not attack_args.attacks and (reason := examination.not_attacked.get(COUNTERFACTUAL)):
        raise InputError(f"counterfactual control: {reason}")
    _show_forget_rows(data, attack_args)
    check_loaded(examination.asked, models)
    with claimed(arguments.output_dir):
        return _judged(examination, arguments, attack_args, original, oracles)


def _judged(
    examination: Examination,
    arguments: BenchmarkArguments,
    attack_args: AttackArguments,
    original: str,
    oracles: list[str],
) -> dict:
    """Examine, conclude and show."""
    data = examination.data
    unlearned = arguments.unlearned_model_name_or_path
    digests = model_digests(Path(unlearned)) if unlearned and Path(unlearned).is_dir() else {}
    examined, records = examination.examine(original, oracles, unlearned)
    if not is_main_process():
        return {}
    inside = audited(examination, original, oracles, unlearned)
    output = Path(arguments.output_dir)
    results = make_results(
        output,
        {"method": Path(unlearned).parent.name if unlearned else "references only"},
        attack_args.attack_seeds[0],
        arguments_to_dict(arguments, attack_args),
        models=(original, oracles, unlearned),
        rows={"forget": data.forget, "retain": data.retain},
        data=arguments.data,
        weights=digests,
        **examined,
        **inside,
        seconds=examination.seconds,
    )
    verdict = conclude(results, records, output)
    show_results(results, verdict)
    words = f"\nEverything is in {output}/: open report.html; results.json, records/"
    Console(highlight=False).print(words, markup=False)
    return results


def robustness_benchmark(description: str, argv: list[str] | None = None) -> dict:
    """Compare methods under all attacks on several seeds; writes and returns what was found."""
    prepare_process()
    worker = become_worker()
    attacks = ["adversarial_reinjection", "benign_relearning", "prompting", "decoding"]
    arguments = parse_for_model(
        (ReferenceArguments, RobustnessArguments, AdapterArguments, AttackArguments, RobustnessConfig),
        argv,
        description=description,
        defaults={"output_dir": "outputs/robustness", "attacks": attacks},
        embedded_defaults=EMBEDDED_DEFAULTS | ROBUSTNESS_DEFAULTS,
        embedded_full_defaults={"learning_rates": EMBEDDED_FULL_LEARNING_RATES},
    )
    data_args, robustness_args, adapter_args, attack_args, config = arguments
    if config.push_to_hub:
        raise InputError("push_to_hub: many models are trained here; push one: llm-unlearn push OUT/runs/NAME")
    check_output_dir(config.output_dir)
    data = data_args.load_data()
    if data_args.dry_run:
        show_dry_run(data, *arguments)
        return {}
    original, oracles = data_args.model_paths()
    references = reference_models(original, oracles)
    examination = checked_examination(data_args, attack_args, data, references, **settings_of(config))
    if not worker:
        _show_forget_rows(data, attack_args)
        check_loaded(examination.asked, references)
    benchmark = Robustness(robustness_args, config, adapter_args, examination, original, oracles, worker)
    with contextlib.nullcontext() if worker else locked(config.output_dir):
        found = benchmark.run()
    if worker:
        return {}
    found = {"config": arguments_to_dict(*arguments)} | found
    write_json(benchmark.output / "robustness.json", found)
    report_robustness(benchmark.output)
    return found
