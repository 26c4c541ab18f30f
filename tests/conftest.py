"""Fixtures shared by all tests."""

import os
import time
from pathlib import Path

import pytest

# Before any Hugging Face library is imported: no test may reach for the hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve tests that run at once


def pytest_collection_modifyitems(items):
    """Files whose tests start commands come first: what is left for the end is small, and no worker idles."""
    folders = {"end_to_end", "distributed", "bad_inputs", "hub", "combinatorial"}
    items.sort(key=lambda item: folders.isdisjoint(item.path.parts))


@pytest.fixture(autouse=True)
def environment():
    """What libraries write into the environment in a test (Accelerate: that FSDP was asked for) is gone in the next."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        if name.startswith(("ACCELERATE_", "FSDP_")):
            del os.environ[name]


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One cache for all tests of all workers, so that the tiny models are trained once a run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    folder = folder / "embedded"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def embedded_models_in_the_cache(cache):
    """Not in that of the user, where models of another day may lie."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_UNLEARN_CACHE", str(cache))
        yield


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


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that `huggingface_hub` talks to, with a token that may write; nobody waits between attempts."""
    import huggingface_hub
    from huggingface_hub import constants
    from loopback_hub import WRITE, LoopbackHub

    with LoopbackHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "downloads"))
        monkeypatch.setenv("HF_TOKEN", WRITE)
        monkeypatch.setattr(time, "sleep", lambda _: None)
        huggingface_hub.close_session()
        yield hub
        huggingface_hub.close_session()
