"""TOFU evaluation of one model: per-row records of all sets, and the aggregates that follow from them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table

from llm_unlearn.arguments import parse_arguments
from llm_unlearn.data import UnlearningData
from llm_unlearn.errors import InputError
from llm_unlearn.judging import Records, judge_rows
from llm_unlearn.metrics import recompute_summary
from llm_unlearn.modeling import load_model, load_tokenizer, use_all_cpu_threads
from llm_unlearn.recipe import write_json
from llm_unlearn.recipe_arguments import DataArguments

MAXIMUM_RETAIN_ROWS = 400  # TOFU judges 400 retain rows


@dataclass
class TofuArguments(DataArguments):
    """The model to judge and the data to judge it on."""

    retain_logs: str | None = field(
        default=None,
        metadata={"help": "TOFU_EVAL.json of a model trained without the forget rows, for forget quality."},
    )
    recompute: str | None = field(
        default=None,
        metadata={
            "help": "A TOFU_EVAL.json: print its aggregates, recomputed from per-row values, and stop. No model."
        },
    )
    output_dir: str = field(default="outputs/tofu", metadata={"help": "Folder that receives the two JSON files."})
    batch_size: int = field(default=64, metadata={"help": "Rows that are scored at once."})
    max_length: int | None = field(default=1024, metadata={"help": "Rows are cut to this many tokens."})
    max_new_tokens: int = field(default=200, metadata={"help": "Longest generated answer (TOFU: 200)."})


def judged_sets(data: UnlearningData) -> dict[str, Dataset]:
    """The sets that TOFU judges, by their prefix in the logs: forget, retain, ra (real authors), wf (world facts)."""
    sets = {"forget": data.forget}
    retain = data.evaluation.get("retain_perturbed", data.retain)
    if retain is not None:
        sets["retain"] = retain.select(range(min(MAXIMUM_RETAIN_ROWS, len(retain))))
    for prefix, name in (("ra", "real_authors"), ("wf", "world_facts"), ("wf", "general")):
        if name in data.evaluation:
            sets[prefix] = data.evaluation[name]
    return sets


def tofu_benchmark(description: str, argv: list[str] | None = None) -> dict[str, float]:
    """Judge a model and write TOFU_EVAL.json and TOFU_SUMMARY.json; returns the summary."""
    use_all_cpu_threads()
    (arguments,) = parse_arguments((TofuArguments,), argv, description=description)
    retain_log = _read_log(arguments.retain_logs, "retain_logs") if arguments.retain_logs else None
    if arguments.recompute:
        summary = recompute_summary(_read_log(arguments.recompute, "recompute"), retain_log)
        print(json.dumps(summary, indent=2, sort_keys=True))
        return summary
    data = arguments.load_data()
    path, _ = arguments.model_paths()
    processing_class = load_tokenizer(path)
    model = load_model(path, arguments.dtype).to("cuda" if torch.cuda.is_available() else "cpu")
    records: Records = {}
    for prefix, dataset in judged_sets(data).items():
        records |= judge_rows(
            model,
            processing_class,
            dataset,
            prefix,
            batch_size=arguments.batch_size,
            max_length=arguments.max_length,
            max_new_tokens=arguments.max_new_tokens,
        )
    summary = recompute_summary(records, retain_log)
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    write_json(
        output / "TOFU_EVAL.json", records | {name: {"agg_value": summary[name]} for name in summary.keys() - records}
    )
    write_json(output / "TOFU_SUMMARY.json", summary)
    _print_summary(summary, path, retain_log is not None, output)
    return summary


def _read_log(path: str, flag: str) -> dict:
    try:
        log = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--{flag} {path} cannot be read ({error.strerror}); give a TOFU_EVAL.json") from error
    except json.JSONDecodeError as error:
        raise InputError(f"--{flag} {path}, line {error.lineno}: not valid JSON ({error.msg})") from error
    if not isinstance(log, dict) or "forget_truth_ratio" not in log:
        raise InputError(f"--{flag} {path} has no forget_truth_ratio; give a TOFU_EVAL.json, not a summary")
    return log


def _print_summary(summary: dict[str, float], path: str, has_retain_log: bool, output: Path) -> None:
    table = Table(title=f"TOFU: {Path(path).name}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name in sorted(summary):
        value = summary[name]
        table.add_row(name, f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3e}")
    console = Console(highlight=False)
    console.print(table)
    if not has_retain_log:
        console.print("forget_quality needs --retain_logs: the TOFU_EVAL.json of a model trained without these rows")
    if "model_utility" not in summary:
        console.print("model_utility needs retain, real authors and world facts with perturbed answers")
    console.print(f"Written to {output}/TOFU_EVAL.json (per row) and TOFU_SUMMARY.json")
