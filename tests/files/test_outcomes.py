"""Outcomes in files: computed once for each key, whole or not at all."""

import json
import subprocess
import sys

import pytest
import torch
from builders import tiny_model, with_trained_adapter

from llm_unlearn.files.outcomes import digest_of, remember, weights_digest
from llm_unlearn.files.whole import json_digest


def test_an_outcome_is_computed_once_for_each_key(tmp_path):
    file, calls = tmp_path / "new" / "attack.json", []

    def compute():
        calls.append(1)
        return {"score": 0.1 * len(calls), 5: "five"}

    key = ["attack", {"steps": 5}, None]
    first = {"score": 0.1, "5": "five"}  # what is read back later is given from the start
    assert remember(file, key, compute) == remember(file, key, compute) == first
    assert json.loads(file.read_text()) == {"digest": digest_of(key), "outcome": first, "sha256": json_digest(first)}
    assert remember(file, ["attack", {"steps": 6}, None], compute)["score"] == 0.2
    assert len(calls) == 2
    assert [path.name for path in file.parent.iterdir()] == ["attack.json"]


def test_a_failed_computation_is_not_remembered(tmp_path):
    def fails():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        remember(tmp_path / "a.json", ["key"], fails)
    assert remember(tmp_path / "a.json", ["key"], lambda: {"score": 1.0}) == {"score": 1.0}


def test_who_need_not_wait_leaves_an_outcome_that_another_process_is_at(tmp_path):
    file = tmp_path / "a.json"

    def compute():
        meanwhile = remember(file, ["key"], lambda: {"score": 2.0}, wait=False)  # as another process would ask
        assert meanwhile is None
        return {"score": 1.0}

    assert remember(file, ["key"], compute) == {"score": 1.0}
    assert remember(file, ["key"], lambda: {"score": 3.0}, wait=False) == {"score": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]  # no lock is left behind


def test_of_two_processes_one_computes_and_the_other_reads(tmp_path):
    code = """
import sys, time
from pathlib import Path
from llm_unlearn.files.outcomes import remember
folder = Path(sys.argv[1])
def compute():
    (folder / f"computed-{sys.argv[2]}").touch()
    time.sleep(1.0)
    return {"by": sys.argv[2]}
print(remember(folder / "outcome" / "a.json", ["key"], compute)["by"])
"""
    commands = [[sys.executable, "-c", code, str(tmp_path), name] for name in "ab"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert answers[0] == answers[1] and len(list(tmp_path.glob("computed-*"))) == 1


def test_nothing_is_kept_of_an_outcome_that_is_not_there(tmp_path):
    assert remember(tmp_path / "a.json", ["key"], lambda: None) is None
    assert list(tmp_path.iterdir()) == []


def test_the_digest_of_weights_is_theirs_alone():
    first = weights_digest(tiny_model())
    assert weights_digest(tiny_model()) == first
    assert weights_digest(tiny_model(seed=1)) != first
    assert weights_digest(with_trained_adapter(tiny_model())) != first
    changed = tiny_model()
    with torch.no_grad():
        changed.lm_head.weight[0, 0] += 1e-3
    assert weights_digest(changed) != first
    assert weights_digest(tiny_model().bfloat16()) != first
