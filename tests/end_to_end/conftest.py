"""What the end-to-end tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One cache for all end-to-end tests, so that the tiny models are trained once."""
    return tmp_path_factory.mktemp("cache")
