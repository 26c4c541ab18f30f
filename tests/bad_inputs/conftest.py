"""Bad inputs as a user gives them: a folder of tiny models and rows, and commands that run in this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_commands import change_json, run, snapshot
from builders import qa_rows, tiny_model, tiny_tokenizer, with_trained_adapter
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="session")
def good_inputs(tmp_path_factory) -> Path:
    """original/, oracle/ and adapter/ (on original), forget.jsonl and retain.jsonl: nothing is wrong with them."""
    folder = tmp_path_factory.mktemp("good")
    for name, seed in (("original", 0), ("oracle", 1)):
        tiny_model(seed=seed).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    base = AutoModelForCausalLM.from_pretrained(folder / "original")
    with_trained_adapter(base).save_pretrained(folder / "adapter")
    for name, rows in (("forget", qa_rows(8)), ("retain", qa_rows(8, start=8))):
        lines = [json.dumps(row) + "\n" for row in rows.to_list()]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def place(good_inputs, tmp_path, monkeypatch) -> Path:
    """A copy of the good inputs, which is the current folder: a test breaks what it wants."""
    shutil.copytree(good_inputs, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "adapter" / "adapter_config.json"
    change_json(config, base_model_name_or_path=str(tmp_path / "original"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def refused(place, monkeypatch) -> Callable[..., None]:
    """Run a command that must end at once, with exit code 2, one line that says all of `words`, and nothing written."""
    monkeypatch.setattr("transformers.Trainer.train", _no_work)
    monkeypatch.setattr("llm_unlearn.examining.examination.Examination.attack", _no_work)
    monkeypatch.setattr("llm_unlearn.examining.examination.Examination.judge", _no_work)

    def check(command: str, flags: list[str], *words: str, code: int = 2) -> None:
        before = snapshot(place)
        done = run(command, flags)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.code == code and len(errors) == 1, done.stderr[-2000:]
        assert "Traceback" not in done.stdout + done.stderr
        assert all(word in errors[0] for word in words), errors[0]
        assert snapshot(place) == before, "it left files"

    return check


def _no_work(*_arguments, **_keywords):
    raise AssertionError("work began before the input was refused")
