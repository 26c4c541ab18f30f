"""What the package says of recorded runs beside a run in the same world."""

import json
from pathlib import Path

import pytest

from llm_unlearn.reporting.leaderboard import read_entries
from llm_unlearn.reporting.recorded import RECORDED, recorded_words, winners

ENTRIES = Path(__file__).parents[2] / "docs" / "leaderboard"


def config(data=None, model=None, split=None, lora_r=64):
    return {
        "data": {"data": data, "model_name_or_path": model, "forget_split": split, "forget_file": None},
        "adapter": {"full_finetuning": False, "lora_r": lora_r},
    }


def test_the_packaged_winners_are_those_of_the_leaderboard():
    packaged = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert packaged == winners(read_entries(ENTRIES)), "entries have changed: python benchmarks/_from_leaderboard.py"


def test_the_winner_is_the_first_of_its_table():
    title = "fictional (forget10), LoRA of rank 64"
    table = (ENTRIES / "README.md").read_text(encoding="utf-8").split(f"## {title}\n")[1].splitlines()
    first = table[next(number for number, line in enumerate(table) if line.startswith("| ---")) + 1]
    assert first.startswith(f"| {json.loads(RECORDED.read_text())[title]['method']} |")


def test_a_run_in_a_recorded_world_is_told(monkeypatch, tmp_path):
    known = {"as asked": {"value": 0.25, "interval": [0.125, 0.5], "label": ""}}
    entry = {"method": "npo", "seeds": [1, 2], "reached": 2, "verdicts": {"hidden": 2}, "lost": [], "knowledge": known}
    path = tmp_path / "recorded.json"
    monkeypatch.setattr("llm_unlearn.reporting.recorded.RECORDED", path)
    path.write_text(json.dumps({"fictional (forget10), LoRA of rank 64": entry | {"lowest": {"share": 0.875}}}))
    assert recorded_words(config()) == (
        "Nearest to erasure of what was recorded here (docs/leaderboard: fictional (forget10), LoRA of rank 64): npo, "
        "knowledge 0.25 [0.12, 0.50] as asked; 0.88 is kept of the ability that lost most; verdicts: 2 hidden."
    )
    path.write_text(json.dumps({"fictional (forget10), LoRA of rank 64": entry | {"lowest": None}}))
    assert "; abilities unknown; " in recorded_words(config())
    path.write_text(json.dumps({"fictional (forget10), LoRA of rank 64": entry | {"lowest": None, "reached": 1}}))
    assert recorded_words(config()).endswith("verdicts: 2 hidden; 1 of 2 did not stop.")


@pytest.mark.parametrize(
    "other", [{"model": "some/model"}, {"data": "fictional:tiny"}, {"split": "forget20"}, {"lora_r": 4}]
)
def test_a_run_elsewhere_is_told_nothing(other):
    assert recorded_words(config(**other)) is None
