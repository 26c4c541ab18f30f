"""Names of flags: how a mistake in one is answered.

Imports nothing heavy: commands use it before they import what takes seconds.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import NoReturn

from llm_unlearn.errors import InputError

# what people type from habit, where spelling alone would suggest the wrong field
_HABITS = {
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "steps": "max_steps",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as part of a sentence, or nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def unknown_words(name: str, where: str, known: Iterable[str], prefix: str = "") -> str:
    """The error about a flag (`prefix="--"`) or a field of a file that nobody knows, with the one that was meant."""
    known = list(known)
    plain = name.lstrip("-").replace("-", "_")
    habit = [_HABITS[plain]] if _HABITS.get(plain) in known else []
    nearest = habit or difflib.get_close_matches(plain, known, n=1)
    fix = f"did you mean {prefix}{nearest[0]}?" if nearest else "--help lists the fields"
    return f"unknown {'flag' if prefix else 'field'} {name} {where}; {fix}"


def parse_command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """`parser.parse_args`, with every mistake in one line.

    Raises:
        InputError: a flag is unknown or lacks its value, or an argument is missing or not a choice.
    """

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{parser.prog}: {message}; {parser.prog} --help explains them")

    parser.error, parser.allow_abbrev = refuse, False  # instead of the whole usage
    parsed, unknown = parser.parse_known_args(list(argv))
    if unknown:
        flags = [option.removeprefix("--") for action in parser._actions for option in action.option_strings]
        if unknown[0].startswith("-"):
            raise InputError(unknown_words(unknown[0].partition("=")[0], f"of {parser.prog}", flags, "--"))
        refuse(f"{unknown[0]!r} is one argument too many")
    return parsed
