"""A method of another package: found by its entry point, and as much a method as ours, without a line of code here."""

import json
import math
import re
import shutil
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import fork_server
import pytest
import torch

from llm_unlearn import InputError, methods
from llm_unlearn.methods import load_method, method_files, summaries
from llm_unlearn.methods.method import Compared, Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.runs import compared_methods
from llm_unlearn.runs.robustness import RobustnessArguments

PACKAGE = Path(__file__).with_name("unlikelihood_package")


def llm_unlearn(*arguments: str, folder: Path, cache: Path, **environment: str) -> subprocess.CompletedProcess:
    """The command, as a user types it."""
    environment = {"LLM_UNLEARN_CACHE": str(cache), "HF_HUB_OFFLINE": "1", **environment}
    return fork_server.run(["-m", "llm_unlearn", *arguments], cwd=folder, environment=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder in which pip has installed the package."""
    source, folder = tmp_path_factory.mktemp("source") / "package", tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))
    flags = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, str(source)], check=True, timeout=200)
    return folder


@pytest.fixture
def plugged_in(site, monkeypatch):
    """The package is installed here, too."""
    monkeypatch.syspath_prepend(str(site))
    load_method.cache_clear()
    compared_methods.compared_methods.cache_clear()
    yield
    load_method.cache_clear()
    compared_methods.compared_methods.cache_clear()
    sys.modules.pop("unlikelihood_package", None)


def test_it_is_listed_without_being_imported(plugged_in):
    listed = list(method_files())
    assert {"npo", "simnpo", "ssiuu"} < set(listed) and listed[-1] == "unlikelihood"
    words = "Unlearn with unlikelihood training: raise the probability of everything but the forgotten token"
    assert summaries()["unlikelihood"] == words
    assert "unlikelihood_package" not in sys.modules


def test_its_loss(plugged_in):
    """-log(1 - p^beta), each token with p = 1/4: 1 - 1/16; a token below the floor counts, and is not pushed."""
    trainer = load_method("unlikelihood").trainer.__new__(load_method("unlikelihood").trainer)
    trainer.args = type("Arguments", (), {"beta": 2.0, "floor": 0.25 - 1e-3})
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]] * 2 + [[0.0, 0.0, -9.0, 0.0]])
    answers = Answers(logits, torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]), torch.tensor([0, 0]))
    expected = -math.log(15 / 16)
    assert trainer.forget_loss(answers).tolist() == pytest.approx([expected, expected, 0.0])


def test_its_fields_are_its_own(plugged_in):
    """Another method's beta stays what it is."""
    assert load_method("unlikelihood").defaults["beta"] == 2.0 and load_method("npo").defaults["beta"] == 0.5
    assert compared_methods.method_of("unlikelihood:floor=0.25").fixed == {"floor": 0.25}
    forms = list(compared_methods.compared_methods())  # methods in their order, controls last
    assert forms[:2] == ["altpo", "ce_u"] and forms.index("whp") + 1 == forms.index("unlikelihood")
    assert forms[forms.index("unlikelihood") + 1] == "npo_equal_steps"
    assert RobustnessArguments(methods=["unlikelihood:floor=0.5", "npo"]).methods


@pytest.mark.long  # a method of ours takes the same way in shorter tests
def test_a_run_to_its_verdict_and_its_card(site, cache, tmp_path):
    path = {"PYTHONPATH": str(site)}
    run = ["run", "unlikelihood", "--data", "fictional:tiny", "--max_steps", "4", "--floor", "0.125"]
    done = llm_unlearn(
        *run, "--attacks", "prompting", "--counterfactual", "false", folder=tmp_path, cache=cache, **path
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "outputs" / "unlikelihood" / "results.json").read_text())
    assert results["method"] == "unlikelihood" and results["training"]["steps"] == 4
    own = results["config"]["unlikelihood_config"]
    assert own["floor"] == 0.125 and own["beta"] == 2.0
    pushed = llm_unlearn("push", "outputs/unlikelihood", "--dry_run", folder=tmp_path, cache=cache)
    assert pushed.returncode == 0, pushed.stderr  # where the package is not installed: results say all of it
    card = (tmp_path / "outputs" / "unlikelihood" / "hub" / "README.md").read_text()
    assert "by **unlikelihood** ([paper](https://arxiv.org/abs/1908.04319))" in card
    assert "Neural Text Generation with Unlikelihood Training" in card


def test_its_help(site, cache, tmp_path):
    path = {"PYTHONPATH": str(site)}
    shown = llm_unlearn("run", "unlikelihood", "--help", folder=tmp_path, cache=cache, **path).stdout
    assert "Usage:\n  llm-unlearn run unlikelihood [--config FILE.yaml]" in shown
    assert "--floor (a number; default 0.0)\n      Tokens less likely than this are left alone." in shown


def offered_as(monkeypatch, folder: Path, name: str, value: str) -> None:
    """Another package offers `value` under `name`."""
    dist_info = folder / "other-1.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (dist_info / "entry_points.txt").write_text(f"[{methods.GROUP}]\n{name} = {value}\n")
    assert PathDistribution(dist_info).entry_points
    monkeypatch.syspath_prepend(str(folder))
    load_method.cache_clear()


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("npo", "json:dumps", "method 'npo' of other is a method of llm_unlearn; rename theirs"),
        ("erase", "no_such_module:METHOD", "method 'erase' of other: there is no module no_such_module"),
        ("erase", "no_such.module:METHOD", "method 'erase' of other: there is no module no_such.module"),
        ("erase", "json:none", "json:none cannot be imported (AttributeError: module 'json' has no attribute 'none')"),
        ("erase", "json:dumps", "method 'erase' of other: json:dumps is no Method of that name"),
    ],
)
def test_what_is_offered_wrongly_is_named(name, value, words, monkeypatch, tmp_path):
    offered_as(monkeypatch, tmp_path, name, value)
    with pytest.raises(InputError, match=re.escape(words)):
        load_method(name)
    load_method.cache_clear()


def test_a_record_with_forms_replaces_the_plain_one():
    method = Method(load_method("npo").trainer, "none", compared={"gentle": Compared({"beta": 0.1})})
    assert list(method.forms) == ["gentle"] and list(Method(load_method("npo").trainer, "none").forms) == ["npo"]
