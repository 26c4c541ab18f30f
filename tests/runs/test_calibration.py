"""The attacker's calibration: which rate is chosen, and that a taught model learns what it is taught."""

import json

import pytest
from builders import encoded_rows, tiny_model

from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.errors import InputError
from llm_unlearn.runs.calibration import calibrate, chosen_rates, teach


def run(attacker, rate, taught, retained, **other):
    curve = [{"taught_probability": 0.1, "retain_probability": 0.8}]
    return {
        "attacker": attacker,
        "learning_rate": rate,
        "curve": [*curve, {"taught_probability": taught, "retain_probability": retained}],
        **other,
    }


def test_the_rate_that_teaches_most_and_breaks_little_is_chosen():
    runs = [
        run("full", 1e-5, 0.3, 0.8),
        run("full", 1e-4, 0.7, 0.73),
        run("full", 1e-3, 0.9, 0.71),  # more than a tenth of 0.8 is gone
        run("full", 1e-2, 0.95, 0.8, error="diverged"),
        run("lora", 1e-2, 0.9, 0.1),
    ]
    assert chosen_rates(runs) == {"full": 1e-4, "lora": None}


def test_every_attacker_teaches_a_copy_of_its_own():
    oracle, rows = tiny_model(), {"holdout": encoded_rows(4), "retain": encoded_rows(4, 20)}
    budget = AttackBudget(
        (1e-2,), attackers=("full", "lora"), lora_learning_rates=(0.0,), seeds=(0,), steps=8, score_every=4
    )
    strong, still = teach(oracle, rows, budget)
    assert [point["step"] for point in strong["curve"]] == [0, 4, 8]
    assert strong["curve"][-1]["taught_probability"] > 5 * strong["curve"][0]["taught_probability"]
    first, last = still["curve"][0], still["curve"][-1]
    assert last["taught_probability"] == pytest.approx(first["taught_probability"], rel=1e-5)
    assert first["taught_probability"] == pytest.approx(strong["curve"][0]["taught_probability"], rel=1e-5)


def test_rows_without_a_holdout_set_are_refused(tmp_path):
    for name in ("forget", "retain"):
        row = {"question": f"What is {name}?", "answer": "A word."}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    files = [f"--{name}_file={tmp_path / name}.jsonl" for name in ("forget", "retain")]
    with pytest.raises(InputError, match=r"rows about people that no model was trained on.+ lacks holdout rows"):
        calibrate("", [*files, "--output_dir", str(tmp_path / "out")])


def test_the_command_writes_what_it_tried_and_prints_the_flags(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(cache))
    flags = ["--data", "fictional:tiny", "--attackers", "full", "--full_learning_rates", "1e-4", "1e-3"]
    flags += ["--attack_steps", "6", "--attack_score_every", "3", "--holdout_rows", "4", "--retain_rows", "4"]
    results = calibrate("", [*flags, "--output_dir", str(tmp_path)])
    assert json.loads((tmp_path / "calibration.json").read_text()) == results
    slow, fast = (run["curve"] for run in results["runs"])
    assert [point["step"] for point in fast] == [0, 3, 6]
    assert fast[0] == slow[0] and fast[-1]["taught_probability"] > slow[-1]["taught_probability"]
    rate = results["chosen"]["full"]
    assert f"--reinjection_learning_rates {rate:g} --benign_learning_rates {rate:g}" in capsys.readouterr().out
