"""Records of plug-ins (methods, attacks, audits) as they stand in sources: lists and help must not wait for imports."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from llm_unlearn.errors import InputError


@cache
def record_in(path: Path, name: str) -> ast.Call | None:
    """The call that a file's `name` is made by: METHOD = Method(...); None where the file has none."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == name for target in node.targets):
            return node.value if isinstance(node.value, ast.Call) else None
    return None


def files_with(folder: Path, name: str) -> dict[str, Path]:
    """Stem -> file of those in a folder that have such a record, in alphabetical order."""
    return {path.stem: path for path in sorted(folder.glob("*.py")) if record_in(path, name) is not None}


def summary_in(path: Path, name: str) -> str:
    """The record's summary where it is written out, else the first line of the file."""
    record = record_in(path, name)
    for keyword in record.keywords if record else []:
        if keyword.arg == "summary" and isinstance(keyword.value, ast.Constant):
            return keyword.value.value
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rstrip(".")


@dataclass(frozen=True)
class Records:
    """The records of a package, one in each file that has one.

    Attributes:
        package: as `llm_unlearn.attacks`. folder: where it is.
        constant: what files call their record. noun: what a record is.
    """

    package: str
    folder: Path
    constant: str
    noun: str

    @property
    def files(self) -> dict[str, Path]:
        """Name -> file, in alphabetical order; nothing is imported."""
        return files_with(self.folder, self.constant)

    @property
    def summaries(self) -> dict[str, str]:
        """Name -> what it does, in a line; nothing is imported."""
        return {name: summary_in(path, self.constant) for name, path in self.files.items()}

    def load(self, name: str) -> Any:
        """The record of that name.

        Raises:
            InputError: there is none.
        """
        if name not in self.files:
            raise InputError(f"{self.noun}={name!r} is unknown: choose from {', '.join(self.files)}")
        return getattr(import_module(f"{self.package}.{name}"), self.constant)
