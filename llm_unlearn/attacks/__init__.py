"""Attacks that try to bring back what was unlearned. A file of this folder that ends with an `ATTACK` is one."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from llm_unlearn.errors import InputError
from llm_unlearn.files.records import files_with, summary_in

if TYPE_CHECKING:
    from llm_unlearn.attacks.attack import Attack

RECORD = "ATTACK"


def attack_names() -> list[str]:
    """All attacks, in alphabetical order; nothing is imported."""
    return [*files_with(Path(__file__).parent, RECORD)]


def summaries() -> dict[str, str]:
    """Name -> what the attack does, in a line; nothing is imported."""
    return {name: summary_in(path, RECORD) for name, path in files_with(Path(__file__).parent, RECORD).items()}


@cache
def load_attack(name: str) -> Attack:
    """The record of an attack.

    Raises:
        InputError: no such attack.
    """
    if name not in attack_names():
        raise InputError(f"attack={name!r} is unknown: choose from {', '.join(attack_names())}")
    return import_module(f"{__name__}.{name}").ATTACK


def attack_label(name: str) -> str:
    """What tables call an attack, of whatever version its results are: "adversarial_reinjection" -> "reinjection"."""
    return load_attack(name).label if name in attack_names() else name.replace("_", " ")
