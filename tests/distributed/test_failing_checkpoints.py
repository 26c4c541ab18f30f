"""What one of two processes cannot write or read ends both, at once, with the same words and exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long


def test_both_processes_end_when_one_cannot_go_on(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    finished = subprocess.run(
        [*launcher, str(Path(__file__).with_name("failing_checkpoints.py")), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second
    for name in ("weights", "completion", "random state", "sharded weights"):
        code, words = first[name]
        assert code == 4
        assert words.startswith(
            f"error: {tmp_path / name / 'checkpoint-2'} could not be written: No space left on device"
        )
        assert "there is no earlier one. Make room" in words
        assert not [*(tmp_path / name).glob("*checkpoint*")]
    assert first["record"] == [0, ""]
    code, words = first["damaged"]
    assert code == 2 and "checkpoint-4/trained_on.json is damaged" in words
