"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of published data that the project measures itself on; it is not part of the repository."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LLM_UNLEARN_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(
            f"no data folder at {folder}: set LLM_UNLEARN_SHARED_DATA to the folder that holds tofu/ and oracles/"
        )
    return folder
