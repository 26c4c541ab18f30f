"""`trainer.push_to_hub()` where two processes train: one uploads, and both learn what came of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import WRITE

SCRIPT = Path(__file__).with_name("push_from_two_processes.py")


@pytest.mark.long
def test_the_main_process_uploads_and_both_return_or_raise_the_same(hub, tmp_path):
    hub.failures["POST", "/api/models/me/forbidden/commit"] = 403
    online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": WRITE, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", SCRIPT, tmp_path],
        env=os.environ | online | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    commit, forbidden, background = first
    assert first == second and f"{hub.url}/me/npo/commit/" in commit
    assert hub.repositories["me/npo"].commits == 1 and len(hub.asked("POST", "/commit/")) == 2
    assert forbidden.startswith("HubError: ") and "(403)" in forbidden
    assert background.startswith("InputError: push_to_hub: blocking=False")
