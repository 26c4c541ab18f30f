"""TOFU evaluation of a model beside its references: per-row records of all sets, and the aggregates that follow."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from rich.console import Console
from rich.markup import escape

from llm_unlearn.arguments.attacking import GENERATION_CONFIG
from llm_unlearn.arguments.parsing import parse_arguments
from llm_unlearn.arguments.ranges import COUNT, check_ranges
from llm_unlearn.data import UnlearningData, forget_queries, neighbor_facts
from llm_unlearn.errors import InputError
from llm_unlearn.examining.preflight import Asked, check_lengths, check_loaded
from llm_unlearn.files.batches import BatchRunner
from llm_unlearn.files.disk import check_output_dir
from llm_unlearn.files.logs import read_retain_log, recompute_file
from llm_unlearn.files.outcomes import weights_digest
from llm_unlearn.files.whole import write_json
from llm_unlearn.metrics.logs import recompute_log
from llm_unlearn.models.judging import Records, judge, reference_attack
from llm_unlearn.models.loading import check_models, use_all_cpu_threads
from llm_unlearn.reporting.tofu_table import tofu_table
from llm_unlearn.runs.benchmarking import BenchmarkArguments, show_dry_run
from llm_unlearn.runs.recipe import alone

MAXIMUM_RETAIN_ROWS = 400  # TOFU judges 400 retain rows
GENERATED = ("forget", "retain", "ra", "wf")  # sets with ROUGE
Summary = dict[str, float]

console = Console(highlight=False, width=max(Console().width, 100))  # narrower, the table would lose digits


@dataclass
class TofuArguments(BenchmarkArguments):
    """The models to judge and the data to judge them on."""

    retain_logs: str | None = field(
        default=None,
        metadata={
            "help": "TOFU_EVAL.json (ours or a published one) of a model trained without the forget rows, for forget "
            "quality and privleak; default: that of the first oracle judged here."
        },
    )
    recompute: str | None = field(
        default=None,
        metadata={
            "help": "A TOFU_EVAL.json: print its aggregates, recomputed from per-row values, and stop. No model."
        },
    )
    queries: bool = field(
        default=True, metadata={"help": "Also ask the forget facts in other ways, and neighboring facts."}
    )
    gradient_norm: bool = field(
        default=False,
        metadata={"help": "Also the membership attack by gradient norm: one backward pass per forget and holdout row."},
    )
    output_dir: str = field(default="outputs/tofu", metadata={"help": "Folder that receives the JSON files."})
    max_new_tokens: int = field(default=200, metadata={"help": "Longest generated answer (TOFU: 200)."})
    generation_config: str = field(default="own", metadata=GENERATION_CONFIG)

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, {"max_new_tokens": COUNT})

    def asked(self, data: UnlearningData, models: Mapping[str, str], device: torch.device) -> Asked:
        """What the preflight asks the models."""
        sets = judged_sets(data, self.queries)
        return Asked.of_sets(
            self.load_tokenizer(models["original"]),
            sets,
            self.max_length,
            [prefix for prefix in GENERATED if prefix in sets],
            also_scored={} if data.holdout is None else {"holdout": data.holdout},
            max_new_tokens=self.max_new_tokens,
            load_model=lambda path: self.load_model(path).to(device),
            trust_remote_code=self.trust_remote_code,
        )


def judged_sets(data: UnlearningData, queries: bool = False) -> dict[str, Dataset]:
    """What is judged, by its prefix in the logs.

    forget, retain, ra (real authors), wf (world facts), as TOFU has them; with `queries` also query_paraphrased, ...
    (the forget facts asked otherwise) and neighbor_same_value, ... (retained facts nearest to them).
    """
    sets = {"forget": data.forget}
    retain = data.evaluation.get("retain_perturbed", data.retain)
    if retain is not None:
        sets["retain"] = retain.select(range(min(MAXIMUM_RETAIN_ROWS, len(retain))))
    for prefix, name in (("ra", "real_authors"), ("wf", "world_facts"), ("wf", "general")):
        if name in data.evaluation and prefix not in sets:  # general rows stand in for world facts, and never beside
            sets[prefix] = data.evaluation[name]
    if queries:
        sets |= {f"query_{style}": rows for style, rows in forget_queries(data).items() if style != "verbatim"}
        sets |= {f"neighbor_{kind}": rows for kind, rows in neighbor_facts(data).items()}
    return sets


def tofu_benchmark(description: str, argv: list[str] | None = None) -> Summary:
    """Judge the models and write TOFU_EVAL.json and TOFU_SUMMARY.json; returns the summary of the one in question.

    That is the unlearned model, or the original where no unlearned one is given. The other models' files are written
    into folders with their names.
    """
    (arguments,) = parse_arguments((TofuArguments,), argv, description=description)
    if arguments.recompute:
        return _recompute(arguments)
    use_all_cpu_threads()
    retain_log, retain_label = None, "the oracle's log"
    if arguments.retain_logs:
        retain_label = f"--retain_logs {arguments.retain_logs}"
        retain_log = read_retain_log(arguments.retain_logs, retain_label)
    check_output_dir(arguments.output_dir)
    data = arguments.load_data()
    if retain_log is not None:
        _check_forget_rows(retain_log, data, retain_label)
    if arguments.dry_run:
        show_dry_run(data, arguments)
        return {}
    # Whoever is done first waits for the others, however long that takes.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))
    models = arguments.models()
    check_models(
        models,
        arguments.load_tokenizer(models["original"]),
        data.forget,
        arguments.max_length,
        arguments.trust_remote_code,
    )
    asked = arguments.asked(data, models, state.device)
    check_lengths(asked, models)
    check_loaded(asked, models)
    with alone(arguments.output_dir):
        return _judged(arguments, data, models, state, retain_log, retain_label)


def _judged(
    arguments: TofuArguments,
    data: UnlearningData,
    models: Mapping[str, str],
    state: PartialState,
    retain_log: Records | None,
    retain_label: str,
) -> Summary:
    """Judge, recompute, write and show."""
    tested = "unlearned" if "unlearned" in models else "original"
    output = Path(arguments.output_dir)
    records = {
        name: _judge_model(name, path, arguments, data, state, output / "unfinished") for name, path in models.items()
    }
    if not state.is_main_process:
        return {}

    if retain_log is None:
        retain_log = records.get("oracle")
    recomputed = {}
    for name in models:
        own_reference = None if records[name] is retain_log else retain_log
        if own_reference is not None:
            records[name] |= reference_attack(records[name], own_reference)
        recomputed[name] = recompute_log(records[name], own_reference, labels=(f"the log of {name}", retain_label))
        _write(records[name], recomputed[name].summary, output if name == tested else output / name)
    shutil.rmtree(output / "unfinished", ignore_errors=True)
    console.print(tofu_table({name: log.summary for name, log in recomputed.items()}))
    for metric, remark in recomputed[tested].remarks.items():
        console.print(f"{metric}: {remark}", soft_wrap=True, markup=False)
    console.print(f"Written to {output}/TOFU_EVAL.json (per row) and TOFU_SUMMARY.json", markup=False, soft_wrap=True)
    return recomputed[tested].summary


def _check_forget_rows(retain_log: Records, data: UnlearningData, label: str) -> None:
    """Raise InputError, before a model is judged, if its rows could not be compared with those of the log."""
    rows = len(retain_log["forget_truth_ratio"]["value_by_index"])
    if rows != len(data.forget):
        raise InputError(
            f"{label}, forget_truth_ratio: {rows} rows, but the forget set has {len(data.forget)} ({data.source}): "
            "give the log of a model evaluated on the same --forget_split"
        )
    if "perturbed_answer" not in data.forget.column_names:
        raise InputError(
            f"{label} is compared by forget_truth_ratio, and the forget rows ({data.source}) have no perturbed_answer: "
            "add that column, or leave the log out"
        )


def _recompute(arguments: TofuArguments) -> Summary:
    """Prints one JSON object, and on standard error what it leaves out and why."""
    flags = ("--recompute", "--retain_logs")
    recomputed = recompute_file(arguments.recompute, arguments.retain_logs, flags=flags)
    for metric, remark in recomputed.remarks.items():
        print(f"{metric}: {remark}", file=sys.stderr)
    print(json.dumps(recomputed.summary, indent=2, sort_keys=True))
    return recomputed.summary


def _judge_model(
    name: str, path: str, arguments: TofuArguments, data: UnlearningData, state: PartialState, journals: Path
) -> Records:
    processing_class = arguments.load_tokenizer(arguments.pinned_model or path)
    model = arguments.load_model(path).to(state.device)
    if state.is_main_process:
        shared = f", {state.num_processes} processes" if state.num_processes > 1 else ""
        console.print(f"[bold]{name}[/] {escape(path)}{shared}", soft_wrap=True)
    return judge(
        model,
        processing_class,
        judged_sets(data, arguments.queries),
        holdout=data.holdout,
        generate=[prefix for prefix in GENERATED if prefix in judged_sets(data)],
        gradient_norm=arguments.gradient_norm,
        batch_size=arguments.batch_size,
        max_length=arguments.max_length,
        max_new_tokens=arguments.max_new_tokens,
        generation_config=arguments.generation_config,
        runner=BatchRunner(state, journals / weights_digest(model), show_progress=True),
    )


def _write(records: Records, summary: Mapping[str, float], folder: Path) -> None:
    """Both files: the records with what only the summary has (forget quality, ...), and the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    only_aggregates = {name: {"agg_value": summary[name]} for name in summary if name not in records}
    write_json(folder / "TOFU_EVAL.json", records | only_aggregates)
    write_json(folder / "TOFU_SUMMARY.json", dict(summary))
