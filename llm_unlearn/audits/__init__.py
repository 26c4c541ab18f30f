"""Audits: what is left inside a model, whatever it says. A file of this folder that ends with an `AUDIT` is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llm_unlearn.files.records import Records

if TYPE_CHECKING:
    from llm_unlearn.audits.audit import Audit

_RECORDS = Records(__name__, Path(__file__).parent, "AUDIT", "audit")


def audit_names() -> list[str]:
    """All audits, in alphabetical order; nothing is imported."""
    return [*_RECORDS.files]


def summaries() -> dict[str, str]:
    """Name -> what the audit does, in a line; nothing is imported."""
    return _RECORDS.summaries


def load_audit(name: str) -> Audit:
    """The record of an audit.

    Raises:
        InputError: no such audit.
    """
    return _RECORDS.load(name)
