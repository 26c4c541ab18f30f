"""Attacks that try to bring back what was unlearned. A file of this folder that ends with an `ATTACK` is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llm_unlearn.files.records import Records

if TYPE_CHECKING:
    from llm_unlearn.attacks.attack import Attack

_RECORDS = Records(__name__, Path(__file__).parent, "ATTACK", "attack")


def attack_names() -> list[str]:
    """All attacks, in alphabetical order; nothing is imported."""
    return [*_RECORDS.files]


def summaries() -> dict[str, str]:
    """Name -> what the attack does, in a line; nothing is imported."""
    return _RECORDS.summaries


def load_attack(name: str) -> Attack:
    """The record of an attack.

    Raises:
        InputError: no such attack.
    """
    return _RECORDS.load(name)


def attack_label(name: str) -> str:
    """What tables call an attack, of whatever version its results are: "adversarial_reinjection" -> "reinjection"."""
    return load_attack(name).label if name in attack_names() else name.replace("_", " ")
