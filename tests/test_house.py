"""The house as CONTRIBUTING.md describes it: rooms, their order, and the sizes of files."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llm_unlearn"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def room_of(module: str) -> str:
    """The folder, or the loose module, that a module stands in."""
    return module.split(".")[1] if "." in module else ""


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(MODULES)


def rooms_in_order() -> list[str]:
    """Those of CONTRIBUTING.md's table, from the top down."""
    return re.findall(r"^\| `(\w+)/` \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)


def test_the_table_names_every_room_and_the_root_has_three_files():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert sorted(rooms_in_order()) == sorted(folders) and len(folders) <= 25


def test_no_arrow_runs_back_up():
    order = {room: number for number, room in enumerate(rooms_in_order())}
    upward = [
        f"{module} -> {imported}"
        for module, path in MODULES.items()
        for imported in imports_of(path)
        if room_of(module) in order and order.get(room_of(imported), len(order)) < order[room_of(module)]
    ]
    assert not upward


def test_no_file_is_too_long():
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert not {module: length for module, length in lengths.items() if length > 450}
