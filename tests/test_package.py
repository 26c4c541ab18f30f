"""What users import from the package's root."""

import subprocess
import sys

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
