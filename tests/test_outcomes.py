"""Outcomes in files: computed once for each key, whole or not at all."""

import json

import pytest
import torch
from builders import tiny_model, with_trained_adapter

from llm_unlearn.outcomes import digest_of, remember, weights_digest


def test_an_outcome_is_computed_once_for_each_key(tmp_path):
    file, calls = tmp_path / "new" / "attack.json", []

    def compute():
        calls.append(1)
        return {"score": 0.1 * len(calls), 5: "five"}

    key = ["attack", {"steps": 5}, None]
    first = {"score": 0.1, "5": "five"}  # what is read back later is given from the start
    assert remember(file, key, compute) == remember(file, key, compute) == first
    assert json.loads(file.read_text()) == {"digest": digest_of(key), "outcome": first}
    assert remember(file, ["attack", {"steps": 6}, None], compute)["score"] == 0.2
    assert len(calls) == 2
    assert [path.name for path in file.parent.iterdir()] == ["attack.json"]


def test_a_failed_computation_is_not_remembered(tmp_path):
    def fails():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        remember(tmp_path / "a.json", ["key"], fails)
    assert remember(tmp_path / "a.json", ["key"], lambda: {"score": 1.0}) == {"score": 1.0}


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
