"""What users import from the package's root."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import llm_unlearn


def test_every_public_name_is_there():
    for name in llm_unlearn.__all__:
        assert getattr(llm_unlearn, name).__name__ == name
        assert name in dir(llm_unlearn)
    with pytest.raises(AttributeError, match="module 'llm_unlearn' has no attribute 'Nothing'"):
        _ = llm_unlearn.Nothing


def test_importing_the_package_does_not_import_torch():
    code = "import sys, llm_unlearn; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_documentation_imports_the_public_api_and_the_changelog_lists_it():
    root = Path(__file__).parents[1]
    pages = (root / "README.md", *(root / "docs").rglob("*.md"))
    lines = [line for page in pages for line in page.read_text().split("\n")]
    imported = [re.fullmatch(r"from (llm_unlearn\S*) import (.+)", line.strip()) for line in lines]
    used = {(found[1], name) for found in imported if found for name in found[2].split(", ")}
    assert used and {module for module, _ in used} == {"llm_unlearn"}
    assert {name for _, name in used} <= set(llm_unlearn.__all__)
    listed = re.search(r"\*\*Public API\*\*(.+?)\n\n", (root / "CHANGELOG.md").read_text(), flags=re.DOTALL)[1]
    assert re.findall(r"`(\w+)`", listed) == llm_unlearn.__all__
