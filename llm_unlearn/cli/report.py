"""Rebuild the report of finished runs: `llm-unlearn report RUN_FOLDER [...]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llm_unlearn.arguments.flags import parse_command
from llm_unlearn.errors import InputError

DESCRIPTION = """\
Rebuild verdict.json, the figures and report.html of finished runs from what was measured.

A run folder is the --output_dir of a recipe or of benchmarks/robustness.py. Nothing is trained and no model is loaded:
everything comes from
  results.json          scores, attack curves and the configuration (required)
  records/MODEL.json    per-row values and generated answers, shown as samples
  forget.jsonl          the questions and true answers

report.html needs no other file and no network: mail it, print it, open it on a phone."""
EXAMPLES = """\
examples:
  llm-unlearn report outputs/npo
  llm-unlearn report outputs/*/          # every run, after an update of this package"""


def main(argv: Sequence[str]) -> list[Path]:
    """Rebuild the reports and print their paths.

    Raises:
        InputError: a folder is missing or holds no results.json that can be judged.
    """
    parser = argparse.ArgumentParser(
        prog="llm-unlearn report",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="output folder of a recipe")
    folders = parse_command(parser, argv).folders
    from llm_unlearn.reporting.page import write_report  # takes seconds to import, which help need not wait for
    from llm_unlearn.reporting.robustness import report_robustness

    pages = []
    for folder in folders:
        is_benchmark = (folder / "robustness.json").is_file()
        for run in sorted(path.parent for path in folder.glob("runs/*/results.json")) if is_benchmark else [folder]:
            rebuild_verdict(run)
            pages.append(write_report(run))
            print(pages[-1])
        if is_benchmark:
            report_robustness(folder)
    return pages


def rebuild_verdict(folder: Path) -> dict:
    """Judge a run again by its results and records, and write verdict.json.

    Raises:
        InputError: the folder or its results.json is missing, or the results lack what a verdict needs,
            or are about other weights than those that are there, or do not fit the records.
    """
    from llm_unlearn.errors import named
    from llm_unlearn.examining.results import check_judgeable, read_run, write_verdict
    from llm_unlearn.examining.verdict import verdict_of
    from llm_unlearn.files.run_folder import check_judged_weights

    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the --output_dir of a recipe's run")
    results, records = read_run(folder)
    check_judgeable(results, folder)
    check_judged_weights(results, folder)
    with named(folder / "results.json"):
        verdict = verdict_of(results, records)
    write_verdict(folder, verdict)
    return verdict
