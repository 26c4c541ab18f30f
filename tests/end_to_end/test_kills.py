"""Killed at any moment, a run goes on to the same end as one that was left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, run

pytestmark = pytest.mark.long

RECIPE = "recipes/ssiuu.py"
FLAGS = [
    *("--data", "fictional:tiny", "--use_cpu", "--report_to", "none", "--max_steps", "12", "--save_strategy", "steps"),
    *("--save_steps", "2", "--save_total_limit", "2", "--regularizer_weight", "auto", "--attack_seeds", "0"),
    *("--attacks", "adversarial_reinjection", "--attack_steps", "6", "--counterfactual", "false"),
]


def contents(folder: Path) -> dict[str, bytes]:
    """Of a run itself: what killed ones had ended with stands in earlier-N."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    paths = {str(file.relative_to(folder)): file for file in files}
    return {path: file.read_bytes() for path, file in paths.items() if not path.startswith("earlier-")}


def test_twenty_kills_change_nothing(cache, tmp_path):
    alone = run(RECIPE, *FLAGS, "--output_dir", "alone", cache=cache, cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr[-2000:]
    seconds = json.loads((tmp_path / "alone" / "results.json").read_text())["seconds"]

    environment = os.environ | {"LLM_UNLEARN_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    helper = [sys.executable, str(Path(__file__).with_name("run_with_kills.py")), str(ROOT / RECIPE)]
    done = subprocess.run(
        [*helper, "20", "1", str(sum(seconds.values())), *FLAGS, "--output_dir", "killed"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (tmp_path / "killed.log").read_text()[-3000:]
    kills = json.loads(done.stdout)
    assert len(kills) == 20 and len({kill["doing"] for kill in kills}) >= 3, kills

    expected, found = contents(tmp_path / "alone"), contents(tmp_path / "killed")
    assert found.keys() == expected.keys()  # no lock, nothing unfinished
    same = [name for name in expected if name.endswith((".safetensors", ".jsonl", "log_probs.json"))]
    assert len(same) >= 6 and all(found[name] == expected[name] for name in same)
    scores = [json.loads(files["results.json"]) for files in (expected, found)]
    for key in ("scores", "attacks", "forget_groups"):
        assert scores[0][key] == scores[1][key]
    assert scores[0]["training"]["steps"] == scores[1]["training"]["steps"] == 12
