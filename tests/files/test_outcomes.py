"""Outcomes in files: computed once for each key, whole or not at all."""

import json

import fork_server
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
    script = tmp_path / "script.py"
    script.write_text("""
import os, time
from pathlib import Path
from llm_unlearn.files.outcomes import remember
me = os.environ["RANK"]
Path(f"asks-{me}").touch()
def compute():
    Path(f"computed-{me}").touch()
    while len([*Path().glob("asks-*")]) < 2:
        time.sleep(0.01)
    return {"by": me}
Path(f"answer-{me}").write_text(remember(Path("outcome", "a.json"), ["key"], compute)["by"])
""")
    done = fork_server.run([str(script)], cwd=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"answer-{rank}").read_text() for rank in range(2))
    assert first == second and len(list(tmp_path.glob("computed-*"))) == 1


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
