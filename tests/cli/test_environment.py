"""`llm-unlearn env`: what stands in a bug report, and what does not."""

from pathlib import Path

import pytest

from llm_unlearn import __version__
from llm_unlearn.cli import environment
from llm_unlearn.cli.environment import describe_environment, without_names


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without GPUs whose user and home are known."""
    monkeypatch.setattr(environment.shutil, "which", lambda _name: None)
    monkeypatch.setattr(environment.sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path / "alice"))
    monkeypatch.setattr(environment.getpass, "getuser", lambda: "alice")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LLM_UNLEARN_CACHE", raising=False)
    (tmp_path / "alice" / ".cache" / "llm_unlearn" / "fictional-tiny").mkdir(parents=True)
    return monkeypatch


def test_versions_cache_and_offline_state(machine):
    machine.setenv("HF_HUB_OFFLINE", "1")
    lines = dict(line.split(maxsplit=1) for line in describe_environment().split("\n\n")[0].splitlines())
    assert lines["llm_unlearn"] == __version__ and lines["torch"][0].isdigit()
    assert lines["cache"] == "~/.cache/llm_unlearn (fictional-tiny)"
    assert lines["hub"] == "offline (HF_HUB_OFFLINE)" and "no driver" in lines["GPUs"]
    machine.setenv("HF_HUB_OFFLINE", "0")
    assert "online" in describe_environment()


def test_no_secret_and_no_name_is_shown(machine):
    machine.setenv("HF_TOKEN", "hf_abcdef")
    machine.setenv("LLM_UNLEARN_CACHE", "/data/alice/models")
    machine.setattr(environment.platform, "node", lambda: "gpu17-of-alices-lab")
    text = describe_environment()
    assert "hf_abcdef" not in text and "alice" not in text
    assert without_names(Path("/data/alice/models")) == "/data/USER/models"
    assert without_names(Path("~/x")) == "~/x"


def test_what_is_missing_comes_with_the_command_that_installs_it(machine):
    machine.setattr(
        environment.metadata,
        "requires",
        lambda _name: ["torch>=999", 'bitsandbytes>=0.49; extra == "quantization"', 'pytest; extra == "dev"'],
    )
    versions = {"torch": "2.13.0"}
    machine.setattr(environment, "_version", versions.get)
    assert describe_environment().split("\n\n")[1].splitlines() == [
        "missing: torch>=999 is there as 2.13.0: pip install -U llm_unlearn",
        "optional: bitsandbytes>=0.49 is not installed; for 4-bit and 8-bit base models, the attack `quantization`: "
        'pip install "llm_unlearn[quantization]"',
    ]
    versions |= {"torch": "999.1", "bitsandbytes": "0.50.2"}
    assert "\n\n" not in describe_environment()
