"""`recipes/train_references.py` as a user types it, and what it writes in the hands of a benchmark."""

import json
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = (
    *("--data", "fictional:tiny", "--forget_split", "forget05", "--retain_rows", "60", "--oracle_seeds", "1"),
    *("--vocabulary", "400", "--hidden_size", "16", "--layers", "1", "--heads", "2", "--epochs", "1"),
)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a script in this process, for a new one would spend most of its time on imports; returns what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(script, *flags):
        monkeypatch.setattr(sys, "argv", [script, *flags])
        runpy.run_path(str(ROOT / script), run_name="__main__")
        return capsys.readouterr()

    return run


def test_references_are_trained_and_a_benchmark_takes_them(run, tmp_path):
    assert "oracle-0" in run("recipes/train_references.py", *TINY).out
    output = tmp_path / "outputs" / "references"
    results = json.loads((output / "results.json").read_text())
    assert list(results["models"]) == ["original", "oracle-0"]
    retained = [json.loads(line) for line in (output / "retain.jsonl").read_text().splitlines()]
    assert len(retained) == 63 == 21 * len({row["person"] for row in retained})  # three whole people
    assert {"question", "answer", "fact_id", "attribute", "perturbed_answer"} <= retained[0].keys()

    paths = results["paths"]
    printed = run(
        "benchmarks/counterfactual_control.py",
        *("--forget_file", paths["forget"], "--retain_file", paths["retain"]),
        *("--model_name_or_path", paths["original"], "--oracle_model_name_or_path", paths["oracle-0"]),
        *("--attack_seeds", "0", "--attack_steps", "2", "--derangement_seeds", "0"),
        *("--counterfactual_group_by", "perturbed_answer", "--output_dir", "control"),
    )
    assert "original" in printed.out and "oracle" in printed.out and (tmp_path / "control" / "results.json").is_file()

    again = run("recipes/train_references.py", "--config", str(output / "config.yaml"))
    assert "training" not in again.err  # nothing is trained twice
    assert json.loads((output / "results.json").read_text()) == results
    with pytest.raises(SystemExit, match="2"):
        run("recipes/train_references.py", *TINY, "--seed", "1")
