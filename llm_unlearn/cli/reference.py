"""docs/reference.md: methods, attacks and audits as their records say; `make docs` writes it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from llm_unlearn import methods
from llm_unlearn.attacks import attack_names, load_attack
from llm_unlearn.audits import audit_names, load_audit
from llm_unlearn.methods.method import Method
from llm_unlearn.reporting.words import NOTHING
from llm_unlearn.training.config import UnlearnConfig

HEAD = """# Methods, attacks, audits

Written by `make docs` from the records that commands, help, tables and model cards are made from, one file each
(`llm_unlearn/methods/`, `attacks/`, `audits/`). `llm-unlearn run NAME --help` has every field.
"""


def reference() -> str:
    """The page."""
    here = Path(methods.__file__).parent  # not those of other packages that are installed
    own = [methods.load_method(name) for name, path in methods.method_files().items() if path.parent == here]
    attacks, audits = map(load_attack, attack_names()), map(load_audit, audit_names())
    summaries = methods.summaries()
    parts = [
        HEAD,
        "## Methods\n\n`llm-unlearn run NAME`. In brackets: with the embedded models, where that is another.\n",
        _table(
            ("name", "what", "source", "fields of its own"),
            [(f"`{m.name}`", summaries[m.name], _source(m), "<br>".join(_own_fields(m)) or NOTHING) for m in own],
        ),
        "## Attacks\n\n`llm-unlearn attack NAME`, or several with `judge --attacks`.\n",
        _table(
            ("name", "what", "in tables", "trains"),
            [
                (f"`{a.name}`", a.summary, a.label, f"yes, at `{a.rates}_learning_rates`" if a.trains else "no")
                for a in attacks
            ],
        ),
        "## Audits\n\n`llm-unlearn run audits --audits NAME`.\n",
        _table(
            ("name", "what", "in audits.json"),
            [(f"`{a.name}`", a.summary, ", ".join(f"`{name}`" for name in a.sections)) for a in audits],
        ),
    ]
    return "\n".join(parts)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _source(method: Method) -> str:
    paper = method.trainer.paper
    return f"{paper.authors} {paper.year}, [{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper else NOTHING


def _own_fields(method: Method) -> list[str]:
    """Fields that only this configuration has, or has another default of."""
    common = {field.name: _default(field) for field in fields(UnlearnConfig)}
    words = []
    for field in fields(method.config):
        default = _default(field)
        if field.name in common and common[field.name] == default:
            continue
        embedded = method.embedded_defaults.get(field.name, default)
        words.append(f"`{field.name}` {default}" + (f" [{embedded}]" if embedded != default else ""))
    return words


def _default(field: Field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
