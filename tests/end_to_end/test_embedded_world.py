"""The main job and the control as a user types them, on the tiny fictional world."""

import json

import pytest
from command_line import run


@pytest.mark.long  # recipes run to their verdict in the tiny world, too
def test_ssiuu_on_the_embedded_default_forgets_and_reports(cache, tmp_path):
    attack = ("--attack_seeds", "0", "--attack_steps", "20")
    done = run(
        "recipes/ssiuu.py",
        "--data",
        "fictional:tiny",
        # the embedded world's own settings are those of the small model
        *("--regularizer_weight", "auto", "--regularizer_ratio", "1", "--learning_rate", "1e-3"),
        *attack,
        cache=cache,
        cwd=tmp_path,
        launcher="accelerate.commands.launch",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    output = tmp_path / "outputs" / "ssiuu"
    results = json.loads((output / "results.json").read_text())
    assert {"original", "oracle", "unlearned"} <= set(results["scores"])
    assert results["scores"]["original"]["forget_exact_match"] >= 0.95
    assert results["scores"]["unlearned"]["forget_exact_match"] <= 0.05
    assert results["scores"]["unlearned"]["retain_exact_match"] >= 0.9
    for attack in ("adversarial_reinjection", "benign_relearning", "head_relearning"):
        for model in ("original", "oracle", "unlearned"):
            outcome = results["attacks"][attack][model]
            assert outcome["curve"][0]["step"] == 0
            assert outcome["forget_probability"] == max(point["forget_probability"] for point in outcome["curve"])
    verdict = json.loads((output / "verdict.json").read_text())
    assert verdict["verdict"] == "hidden" and verdict["by"] == "oracle"  # it still answers in reverse
    assert "counterfactual_control" in results["not_attacked"]  # one person: nobody to exchange answers with
    assert "no counterfactual control: attribute" in done.stdout and verdict["sentence"][:60] in done.stdout
    written = ("recovery.png", "heat_map.png", "trade_off.png", "report.html", "config.yaml", "forget.jsonl")
    written += ("records/unlearned.json", "adapter/adapter_config.json")
    written += ("attacks/benign_relearning-unlearned.json",)
    for name in written:
        assert (output / name).stat().st_size > 0
    assert "original" in done.stdout and "after an attack" in done.stdout


@pytest.mark.long
def test_two_processes_share_the_attacks_on_a_finished_run(cache, tmp_path):
    """Anyone can judge a run again from the paths in results.json."""
    short = ("--max_steps", "4", "--attacks", "none", "--output_dir", "out")
    done = run("recipes/npo.py", "--data", "fictional:tiny", *short, cache=cache, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    again = run(
        "benchmarks/adversarial_reinjection.py",
        *("--data", "fictional:tiny", "--oracle_seeds", "1", "--attack_seeds", "0", "--attack_steps", "5"),
        *("--unlearned_model_name_or_path", results["paths"]["unlearned"]),
        *("--attacks", "leave_one_group_out", "retain_relearning", "--attackers", "lora", "--left_out_groups", "2"),
        cache=cache,
        cwd=tmp_path,
        launcher="torch.distributed.run --nproc_per_node 2",
    )
    assert again.returncode == 0, again.stderr[-2000:]
    judged = json.loads((tmp_path / "outputs" / "benchmark" / "results.json").read_text())
    assert judged["scores"]["unlearned"] == pytest.approx(results["scores"]["unlearned"], abs=1e-4)
    assert list(judged["attacks"]) == ["leave_one_group_out", "retain_relearning"]
    assert len(judged["attacks"]["leave_one_group_out"]["unlearned"]["groups"]) == 2
    assert len(list((tmp_path / "outputs" / "benchmark" / "attacks").iterdir())) == 6  # two attacks on three models


@pytest.mark.long
def test_the_counterfactual_control_needs_no_oracle_and_is_not_run_twice(cache, tmp_path):
    flags = (
        "--data",
        "fictional:tiny",
        "--forget_split",
        "forget10",
        "--oracle_seeds",
        "1",
        "--attack_seeds",
        "0",
        "1",
    )
    flags += ("--attack_steps", "4", "--derangement_seeds", "0", "1")
    refused = run("benchmarks/counterfactual_control.py", *flags, cache=cache, cwd=tmp_path)
    assert refused.returncode == 2 and "perturbed_answer" in refused.stderr  # one person has nobody to exchange with
    flags += ("--counterfactual_group_by", "perturbed_answer")
    outputs = [run("benchmarks/counterfactual_control.py", *flags, cache=cache, cwd=tmp_path) for _ in range(2)]
    for done in outputs:
        assert done.returncode == 0, done.stderr[-2000:]
        assert "excess after the attack" in done.stdout and "…" not in done.stdout
    assert outputs[0].stdout == outputs[1].stdout
    assert "counterfactual control of oracle" in outputs[0].stderr
    assert "counterfactual control of oracle" not in outputs[1].stderr  # remembered
    results = json.loads((tmp_path / "outputs" / "counterfactual" / "results.json").read_text())
    low, high = results["counterfactual"]["oracle"]["probability"]["interval"]
    assert low <= results["counterfactual"]["oracle"]["probability"]["excess"] <= high
