"""The combinatorial laboratory as one command: from seeds to figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from tqdm.auto import tqdm

from llm_unlearn.arguments.parsing import arguments_to_dict, parse_arguments
from llm_unlearn.combinatorial.experiment import LaboratoryArguments, run_laboratory, total_steps
from llm_unlearn.files.disk import check_output_dir
from llm_unlearn.files.run_folder import locked
from llm_unlearn.files.whole import write_json
from llm_unlearn.reporting.combinatorial_figures import (
    codes_figure,
    keep_figure,
    recovery_figure,
    regularizer_figure,
)
from llm_unlearn.reporting.combinatorial_table import laboratory_sections
from llm_unlearn.reporting.influence_table import markdown, print_sections

FIGURES = {
    "codes.png": codes_figure,
    "recovery.png": recovery_figure,
    "keep.png": keep_figure,
    "regularizer.png": regularizer_figure,
}


def combinatorial_benchmark(description: str, argv: list[str] | None = None) -> dict[str, Any]:
    """Run the laboratory; prints tables, writes combinatorial.json, table.md and the figures, returns the results.

    Raises:
        InputError: a flag is unknown or its value impossible.
    """
    (arguments,) = parse_arguments((LaboratoryArguments,), argv, description=description)
    check_output_dir(arguments.output_dir)
    with locked(arguments.output_dir) as output:
        return _measured(arguments, output)


def _measured(arguments: LaboratoryArguments, output: Path) -> dict[str, Any]:
    """Run, write and show."""
    # the kernels are small: on a busy machine, two threads took twice as long
    torch.set_num_threads(1)
    with tqdm(total=total_steps(arguments), unit="step", dynamic_ncols=True) as bar:

        def progress(stage: str, steps: int) -> None:
            bar.set_description(stage, refresh=False)
            bar.update(steps)

        measured = run_laboratory(arguments, progress)
        seconds = bar.format_dict["elapsed"]
    results = {"config": arguments_to_dict(arguments), "seconds": round(seconds, 1), **measured}
    write_json(output / "combinatorial.json", results)
    sections = laboratory_sections(results)
    (output / "table.md").write_text(markdown(sections), encoding="utf-8")
    for name, figure in FIGURES.items():
        figure(results, output / name)
    # narrower, the tables would lose digits
    print_sections(sections, Console(highlight=False, width=max(Console().width, 175)))
    print(f"Everything is in {output}/: combinatorial.json, table.md, {', '.join(FIGURES)} ({seconds:.0f} s)")
    return results
