"""Records of plug-ins (methods, attacks) as they stand in sources: lists and help must not wait for slow imports."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


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
