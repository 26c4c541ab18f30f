"""Every command on SmolLM2-135M, a few steps each: `make test-real`."""

import json
import os
import sys
from pathlib import Path

import pytest
from four_people import run

from llm_unlearn.hub import load_unlearned, push_run
from llm_unlearn.models.loading import load_model

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
QUICK = ("--max_steps", "2", "--per_device_train_batch_size", "2", "--attacks", "none", "--counterfactual", "false")
RECIPES = {  # what one of them has to itself, and a way to train that goes with any
    "ssiuu": (),
    "sam": ("--bf16", "--use_cpu"),
    "counterfactual": ("--guess_source", "sampled", "--guesses", "2", "--full_finetuning"),
    "npo": ("--load_in_4bit",),
    "rmu": ("--activation_checkpointing",),
}


def read(folder, name="results.json"):
    return json.loads((Path(folder) / name).read_text())


@pytest.mark.parametrize("method", RECIPES)
def test_a_recipe(method, models, files, tmp_path):
    run("run", method, *models, *files, *QUICK, *RECIPES[method], "--output_dir", tmp_path)
    results = read(tmp_path)
    assert results["training"]["steps"] == 2 and read(tmp_path, "verdict.json")["verdict"]
    scores = results["scores"]
    assert 0 < scores["unlearned"]["forget_probability"] <= 1
    assert scores["original"]["forget_probability"] > scores["oracle"]["forget_probability"] + 0.3


@pytest.mark.parametrize("launcher, flags", [("cpu", ()), ("fsdp2", ("--full_finetuning",))])
def test_two_processes(launcher, flags, models, files, tmp_path):
    """The launcher of the distributed tests, which lets FSDP have its effect on CPUs."""
    config = ROOT / "recipes" / "accelerate" / f"{launcher}.yaml"
    command = (sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", config)
    script = ROOT / "tests" / "distributed" / "recipe_on_cpu.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    half = ("--per_device_train_batch_size", "1", "--use_cpu", "--output_dir", tmp_path)
    run(
        *("--num_processes", "2", "--mixed_precision", "no", script, "npo.py", *models, *files, *QUICK, *half, *flags),
        launcher=map(str, command),
        env=environment,
    )
    assert read(tmp_path)["training"]["steps"] == 2


def test_judge_with_quantization_and_retain_relearning(models, files, unlearned, tmp_path):
    attacks = ("--attacks", "quantization", "retain_relearning", "--attack_steps", "2", "--attack_seeds", "0")
    model = ("--unlearned_model_name_or_path", unlearned / "adapter", "--counterfactual", "false")
    run("judge", *models, *files, *model, *attacks, "--output_dir", tmp_path)
    assert set(read(tmp_path)["attacks"]) == {"quantization", "retain_relearning"}


def test_one_attack_alone(models, files, unlearned, tmp_path):
    model = ("--unlearned_model_name_or_path", unlearned / "adapter", "--attackers", "lora")
    printed = run(
        *("attack", "adversarial_reinjection", *models, *files, *model, "--attack_steps", "2", "--attack_seeds", "0"),
        *("--output_dir", tmp_path),
    )
    assert "unlearned" in printed


def test_influence(models, files, unlearned, tmp_path):
    model = ("--unlearned_model_name_or_path", unlearned / "adapter", "--attack_steps", "0")
    run("run", "influence", *models, *files, *model, "--output_dir", tmp_path)
    assert 0 < read(tmp_path, "influence.json")["comparisons"]["oracle"]["hiding_share"] < 1


def test_tofu(models, files, unlearned, tmp_path):
    run(
        "run",
        "tofu",
        *models,
        *files,
        "--unlearned_model_name_or_path",
        unlearned / "adapter",
        "--output_dir",
        tmp_path,
    )
    assert 0 < read(tmp_path, "TOFU_SUMMARY.json")["forget_Q_A_Prob"] < 1


def test_robustness(models, files, tmp_path):
    flags = (*QUICK, "--methods", "npo", "retain_only", "--seeds", "0", "--learning_rates", "5e-4")
    flags += ("--attacks", "adversarial_reinjection", "--attack_steps", "2", "--attack_seeds", "0")
    never = ("--stop_at_forget_exact_match", "0", "--forget_check_steps", "2")
    run("run", "robustness", *models, *files, *flags, *never, "--output_dir", tmp_path)
    assert "npo" in (tmp_path / "table.md").read_text()


def test_a_run_is_pushed_and_loaded_again(hub, references, unlearned):
    push_run(unlearned, "me/smollm2-npo")
    repository = hub.repositories["me/smollm2-npo"]
    assert repository.private and "adapter_model.safetensors" in repository.files
    assert "SmolLM2" in repository.files["README.md"].decode()
    again = load_unlearned("me/smollm2-npo", base_model=str(references / "original")).model.state_dict()
    assert any("lora_B" in name for name in again)
    for name, value in load_model(str(unlearned / "adapter")).state_dict().items():
        if "lora" in name:
            assert value.equal(again[name]), name
