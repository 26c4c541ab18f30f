"""What a training step costs, as a table on the terminal and in Markdown."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

COLUMNS = ("seconds", "x plain", "x FLOPs", "x floor", "peak MiB", "x peak")


def table_rows(measured: dict, setting: str) -> list[tuple[str, ...]]:
    """A row per trainer: its name, then the columns of `COLUMNS`."""
    return [
        (
            name,
            f"{found['seconds']:.3f}",
            f"{found['seconds_over_plain']:.2f}",
            f"{found['flops_over_plain']:.2f}",
            f"{found['floor_over_plain']:.2f}",
            f"{found['peak_bytes'] / 2**20:,.0f}",
            f"{found['peak_over_plain']:.2f}",
        )
        for name, found in measured["settings"][setting].items()
    ]


def headline(measured: dict) -> str:
    """Model, machine and rows in one line."""
    (config,) = measured["config"].values()
    return (
        f"{measured['parameters'] / 1e6:.1f} M parameters ({measured['head_share']:.0%} of the linear weights in the "
        f"output embedding), {config['dtype']}, on {measured['device']} ({measured['threads']} threads); "
        f"{config['batch_size']} forget + {config['batch_size']} retain rows of {config['row_length']} tokens, "
        f"{config['answer_tokens']} of them answer tokens"
    )


def print_measurement(measured: dict) -> None:
    """A table per setting."""
    console = Console(highlight=False, width=max(Console().width, 100))
    console.print(headline(measured), soft_wrap=True)
    for setting in measured["settings"]:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        table.add_column(setting, no_wrap=True)
        for title in COLUMNS:
            table.add_column(title, justify="right", no_wrap=True)
        for row in table_rows(measured, setting):
            table.add_row(*row)
        console.print(table)
    console.print(
        "seconds: of a step, median. x plain, x FLOPs, x floor: seconds, operations and counted passes over those of "
        "the plain supervised step. peak: beyond weights and optimizer state.",
        soft_wrap=True,
    )


def markdown_table(measured: dict) -> str:
    """The tables of `print_measurement` as Markdown."""
    lines = [headline(measured)]
    for setting in measured["settings"]:
        lines += ["", f"| {setting} | {' | '.join(COLUMNS)} |", f"|---{'|---:' * len(COLUMNS)}|"]
        lines += [f"| {' | '.join(row)} |" for row in table_rows(measured, setting)]
    return "\n".join(lines) + "\n"
