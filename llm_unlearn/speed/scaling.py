"""How a training step's seconds and memory scale: with the batch, the length of rows, the vocabulary and the model.

One of them is varied at a time around a starting point; every point is a measurement of its own (`training.py`), in
which all trainers take turns with plain supervised fine-tuning.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from llm_unlearn.arguments.parsing import arguments_to_dict, parse_arguments
from llm_unlearn.files.disk import check_output_dir
from llm_unlearn.files.run_folder import locked
from llm_unlearn.files.whole import write_json
from llm_unlearn.models.loading import use_all_cpu_threads
from llm_unlearn.speed.training import PLAIN, measure_setting
from llm_unlearn.speed.workload import TrainingSpeedArguments

FACTORS = {  # field of the starting point -> the field that lists its values
    "batch_size": "batch_sizes",
    "row_length": "row_lengths",
    "vocabulary": "vocabularies",
    "hidden_size": "hidden_sizes",
}


@dataclass
class ScalingArguments(TrainingSpeedArguments):
    """The starting point, and the values that each factor takes while the others stay where they are."""

    batch_size: int = field(default=2, metadata={"help": "Forget rows of a step at the starting point."})
    full_finetuning: bool = field(default=False, metadata={"help": "Measure training of all weights."})
    block_steps: int = field(default=5, metadata={"help": "Steps that a trainer takes at its turn."})
    output_dir: str = field(
        default="outputs/training_scaling", metadata={"help": "Folder that receives scaling.json and table.md."}
    )
    batch_sizes: list[int] = field(default_factory=lambda: [1, 2, 4, 8], metadata={"help": "Values of batch_size."})
    row_lengths: list[int] = field(
        default_factory=lambda: [64, 128, 256, 512],
        metadata={"help": "Values of row_length; answer tokens keep their share."},
    )
    vocabularies: list[int] = field(
        default_factory=lambda: [8_000, 32_000, 128_000], metadata={"help": "Values of vocabulary."}
    )
    hidden_sizes: list[int] = field(
        default_factory=lambda: [256, 512, 1024], metadata={"help": "Values of hidden_size: the size of the model."}
    )

    def __post_init__(self):
        super().__post_init__()
        for factor, values in FACTORS.items():
            for value in getattr(self, values):
                try:
                    point(self, factor, value)
                except ValueError as error:
                    raise ValueError(f"{values}: {error}") from None
        if not any(getattr(self, values) for values in FACTORS.values()):
            raise ValueError(f"{', '.join(FACTORS.values())} are all empty: nothing is left to measure")


def point(start: ScalingArguments, factor: str, value: int) -> TrainingSpeedArguments:
    """The starting point with another value of one factor.

    Raises:
        ValueError: the value cannot be measured.
    """
    common = {one.name: getattr(start, one.name) for one in fields(TrainingSpeedArguments)}
    if factor == "row_length":
        common["answer_tokens"] = round(start.answer_tokens * value / start.row_length)
    return TrainingSpeedArguments(**common | {factor: value})


def training_scaling(description: str, argv: list[str] | None = None) -> dict:
    """Measure every point, print a table per factor, write scaling.json and table.md, return scaling.json."""
    (arguments,) = parse_arguments((ScalingArguments,), argv, description=description)
    use_all_cpu_threads()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    check_output_dir(arguments.output_dir)
    measured: dict = {"config": arguments_to_dict(arguments), "threads": torch.get_num_threads(), "factors": {}}
    with locked(arguments.output_dir) as folder:
        _measure_all(arguments, measured, folder)
        (folder / "table.md").write_text(markdown_tables(measured), encoding="utf-8")
    for factor, settings in tables(measured).items():
        for setting, (header, rows) in settings.items():
            table = Table(box=box.SIMPLE_HEAD, show_edge=False, title=f"{factor}, {setting}", title_justify="left")
            for title in header:
                table.add_column(title, justify="right", no_wrap=True)
            for row in rows:
                table.add_row(*row)
            Console(highlight=False, width=max(Console().width, 100)).print(table)
    return measured


def _measure_all(arguments: ScalingArguments, measured: dict, folder: Path) -> None:
    """Add every point to `measured`, and write it after each: whoever stops here keeps what is known."""
    known: dict[str, dict] = {}  # the starting point belongs to every factor, and is measured once
    for factor, values in FACTORS.items():
        for value in getattr(arguments, values):
            one = point(arguments, factor, value)
            if repr(one) not in known:
                known[repr(one)] = _measure(one)
            measured["factors"].setdefault(factor, {})[str(value)] = known[repr(one)]
            write_json(folder / "scaling.json", measured)


def _measure(arguments: TrainingSpeedArguments) -> dict:
    found: dict = {"settings": {}}
    for setting in arguments.settings:
        with tempfile.TemporaryDirectory() as scratch:
            found |= measure_setting(arguments, setting, found["settings"], scratch)
    return found


def tables(measured: dict) -> dict[str, dict[str, tuple[list[str], list[list[str]]]]]:
    """Factor -> setting -> header and rows: a row per value, and per trainer its seconds and peak over the plain's."""
    found: dict[str, dict] = {}
    for factor, points in measured["factors"].items():
        for value, one in points.items():
            for setting, trainers in one["settings"].items():
                methods = [name for name in trainers if name != PLAIN]
                header = [factor, "parameters", "plain seconds", "plain MiB"]
                for name in methods:
                    header += [f"{name} x plain", "x floor", "x peak"]
                plain = trainers[PLAIN]
                row = [f"{int(value):,}", f"{one['parameters'] / 1e6:.1f} M"]
                row += [f"{plain['seconds']:.3f}", f"{plain['peak_bytes'] / 2**20:,.0f}"]
                for name in methods:
                    columns = ("seconds_over_plain", "floor_over_plain", "peak_over_plain")
                    row += [f"{trainers[name][column]:.2f}" for column in columns]
                found.setdefault(factor, {}).setdefault(setting, (header, []))[1].append(row)
    return found


def markdown_tables(measured: dict) -> str:
    """The tables as Markdown."""
    blocks = []
    for settings in tables(measured).values():
        for setting, (header, rows) in settings.items():
            lines = [f"{setting}:", "", f"| {' | '.join(header)} |", f"|{'---:|' * len(header)}"]
            blocks.append("\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]))
    return "\n\n".join(blocks) + "\n"
