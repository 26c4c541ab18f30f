"""What the attack benchmarks share: examine an unlearned model beside its references, without any training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from rich.console import Console

from llm_unlearn.arguments import arguments_to_dict, parse_arguments
from llm_unlearn.data import UnlearningData
from llm_unlearn.embedded import RECIPE_DEFAULTS, embedded_model
from llm_unlearn.examination import Examination
from llm_unlearn.modeling import load_tokenizer
from llm_unlearn.recipe import prepare_process, write_results, write_rows
from llm_unlearn.recipe_arguments import AttackArguments, DataArguments
from llm_unlearn.reporting.tables import print_results


@dataclass
class BenchmarkArguments(DataArguments):
    """Which models are examined on what; `model_name_or_path` is the original."""

    unlearned_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Adapter or model folder, or hub id, to examine; default: only original and oracles."},
    )
    oracle_seeds: int = field(
        default=3, metadata={"help": "Oracles of the embedded world, each from another seed; trained on first use."}
    )
    output_dir: str = field(default="outputs/benchmark", metadata={"help": "Folder that receives everything written."})
    max_length: int | None = field(default=1024, metadata={"help": "Rows are cut to this many tokens."})
    batch_size: int = field(default=64, metadata={"help": "Rows that are scored at once."})

    def model_paths(self) -> tuple[str, list[str]]:
        original, oracles = super().model_paths()
        if self.model_name_or_path is None and self.oracle_model_name_or_path is None:
            split = self.forget_split or "forget10"
            seeds = range(self.oracle_seeds)
            oracles = [str(embedded_model(self.embedded_size, without=split, seed=seed)) for seed in seeds]
        return original, oracles


def show_dry_run(data: UnlearningData, *groups: object) -> None:
    """Print the configuration and what would be examined: the `--dry_run` of benchmarks."""
    console = Console(highlight=False)
    console.print(yaml.safe_dump(arguments_to_dict(*groups), sort_keys=False), markup=False)
    sets = {"forget": data.forget, "retain": data.retain, "holdout": data.holdout, **data.evaluation, **data.queries}
    counts = ", ".join(f"{len(rows)} {name}" for name, rows in sets.items() if rows is not None)
    console.print(f"{data.source}: {counts} rows", markup=False, soft_wrap=True)


def attack_benchmark(attack: str, description: str, argv: list[str] | None = None) -> dict:
    """Run one attack on original, oracles and, if given, an unlearned model; writes and returns the results.

    Args:
        attack: what is run unless `--attacks` says otherwise.
    """
    prepare_process()
    groups = (BenchmarkArguments, AttackArguments)
    defaults = {"attacks": [attack]}
    arguments, attack_args = parse_arguments(groups, argv, description=description, defaults=defaults)
    if arguments.model_name_or_path is None:
        defaults |= {name: value for name, value in RECIPE_DEFAULTS["npo"].items() if "learning_rates" in name}
        arguments, attack_args = parse_arguments(groups, argv, description=description, defaults=defaults)
    data = arguments.load_data()
    if arguments.dry_run:
        show_dry_run(data, arguments, attack_args)
        return {}
    original, oracles = arguments.model_paths()
    examination = Examination(
        arguments,
        attack_args,
        data,
        load_tokenizer(original),
        device="cuda" if torch.cuda.is_available() else "cpu",
        max_length=arguments.max_length,
        batch_size=arguments.batch_size,
        output_dir=arguments.output_dir,
    )
    unlearned = arguments.unlearned_model_name_or_path
    examined, records = examination.examine(original, oracles, unlearned)
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    results = {
        "method": Path(unlearned).parent.name if unlearned else "references only",
        "seed": attack_args.attack_seeds[0],
        "config": arguments_to_dict(arguments, attack_args),
        "paths": {
            "original": original,
            "oracles": oracles,
            "unlearned": unlearned,
            **write_rows(output, forget=data.forget, retain=data.retain),
        },
        **examined,
        "seconds": examination.seconds,
    }
    write_results(results, records, output)
    print_results(results)
    return results
