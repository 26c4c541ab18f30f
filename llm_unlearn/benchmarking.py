"""What the attack benchmarks share: examine an unlearned model beside its references, without any training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import yaml
from rich.console import Console

from llm_unlearn.arguments import arguments_to_dict, parse_arguments
from llm_unlearn.attacks import counterfactual_rows, knowledge_excess
from llm_unlearn.data import UnlearningData
from llm_unlearn.embedded import RECIPE_DEFAULTS, embedded_model
from llm_unlearn.examination import Examination
from llm_unlearn.modeling import check_model_path, load_model, load_tokenizer
from llm_unlearn.outcomes import remember, weights_digest
from llm_unlearn.recipe import prepare_process, write_json, write_results, write_rows
from llm_unlearn.recipe_arguments import AttackArguments, DataArguments
from llm_unlearn.reporting.counterfactual_table import counterfactual_table
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
        given = (self.model_name_or_path, self.unlearned_model_name_or_path, *(self.oracle_model_name_or_path or []))
        for path in given:  # before the first of them is judged, which may take hours
            if path is not None:
                check_model_path(path)
        original, oracles = super().model_paths()
        if self.model_name_or_path is None and self.oracle_model_name_or_path is None:
            split = self.forget_split or "forget10"
            seeds = range(self.oracle_seeds)
            oracles = [str(embedded_model(self.embedded_size, without=split, seed=seed)) for seed in seeds]
        return original, oracles

    def models(self) -> dict[str, str]:
        """Name -> folder or hub id: original, oracle, oracle_1, ... and, where one is given, unlearned."""
        original, oracles = self.model_paths()
        names = ["oracle", *(f"oracle_{number}" for number in range(1, len(oracles)))]
        models = {"original": original} | dict(zip(names, oracles, strict=False))
        if self.unlearned_model_name_or_path is not None:
            models["unlearned"] = self.unlearned_model_name_or_path
        return models


@dataclass
class CounterfactualArguments(BenchmarkArguments):
    """Which models are examined on what, and what the made-up facts are."""

    derangement_seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Each makes up other facts; the attack runs with each."}
    )
    counterfactual_group_by: str | None = field(
        default=None,
        metadata={
            "help": "Column with kinds of questions, within which answers are exchanged, or perturbed_answer to take "
            "the wrong answers of the data; default: attribute, else perturbed_answer, else all rows are of one kind."
        },
    )
    output_dir: str = field(default="outputs/counterfactual", metadata={"help": "Folder that receives results.json."})


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
    arguments, attack_args = _attack_arguments(BenchmarkArguments, attack, description, argv)
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


def counterfactual_benchmark(description: str, argv: list[str] | None = None) -> dict:
    """Run the counterfactual control on original, oracles and, if given, an unlearned model; writes the results."""
    attack = "adversarial_reinjection"
    arguments, attack_args = _attack_arguments(CounterfactualArguments, attack, description, argv)
    data = arguments.load_data()
    group_by, seeds, budget = arguments.counterfactual_group_by, arguments.derangement_seeds, attack_args.budget(attack)
    for seed in seeds:
        counterfactual_rows(data.forget, seed, group_by)  # before any model is loaded or trained
    if arguments.dry_run:
        show_dry_run(data, arguments, attack_args)
        return {}
    models, output = arguments.models(), Path(arguments.output_dir)
    outcomes = {}
    for name, path in models.items():
        model = load_model(path, arguments.dtype).to("cuda" if torch.cuda.is_available() else "cpu")
        outcomes[name] = remember(
            output / "models" / f"{name}.json",
            [weights_digest(model), data.forget.to_list(), asdict(budget), seeds, group_by, arguments.max_length],
            lambda model=model, name=name: knowledge_excess(
                model,
                load_tokenizer(models["original"]),
                data.forget,
                budget,
                seeds,
                group_by=group_by,
                max_length=arguments.max_length,
                title=f"counterfactual control of {name}",
            ),
        )
    results = {"config": arguments_to_dict(arguments, attack_args), "paths": models, "models": outcomes}
    write_json(output / "results.json", results)
    Console(highlight=False, width=max(Console().width, 100)).print(counterfactual_table(outcomes))
    return results


def _attack_arguments(kind: type, attack: str, description: str, argv: list[str] | None) -> tuple:
    """The arguments of a benchmark that attacks; learning rates suit the embedded model where that is used."""
    prepare_process()
    groups, defaults = (kind, AttackArguments), {"attacks": [attack]}
    arguments, attack_args = parse_arguments(groups, argv, description=description, defaults=defaults)
    if arguments.model_name_or_path is None:
        defaults |= {name: value for name, value in RECIPE_DEFAULTS["npo"].items() if "learning_rates" in name}
        arguments, attack_args = parse_arguments(groups, argv, description=description, defaults=defaults)
    return arguments, attack_args
