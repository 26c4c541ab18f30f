"""What the end-to-end tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One cache for all end-to-end tests of all workers, so that the tiny models are trained once."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    folder = folder / "embedded"
    folder.mkdir(exist_ok=True)
    return folder
