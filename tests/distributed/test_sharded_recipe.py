"""A whole recipe, with attacks and verdict, under the launcher files that come with the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import qa_rows, tiny_model, tiny_tokenizer

from llm_unlearn import SAMConfig, SsiuuConfig, UnlearnConfig

ROOT = Path(__file__).parents[2]
FULL = ("--full_finetuning",)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model, an oracle and rows."""
    folder = tmp_path_factory.mktemp("recipe")
    for seed, name in enumerate(("base", "oracle")):
        tiny_model(seed=seed).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    qa_rows(6).to_json(folder / "forget.jsonl")
    qa_rows(9, start=20).to_json(folder / "retain.jsonl")
    return folder


def launch(home, launcher, recipe, output, *flags):
    files = ROOT / "recipes" / "accelerate"
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file"]
    command += [str(files / launcher), "--num_processes", "2", "--mixed_precision", "no"]
    command += [str(Path(__file__).with_name("recipe_on_cpu.py")), recipe, "--use_cpu", "--disable_tqdm"]
    command += ["--forget_file", "forget.jsonl", "--retain_file", "retain.jsonl", "--model_name_or_path", "base"]
    command += ["--oracle_model_name_or_path", "oracle", "--output_dir", output, *flags]
    return subprocess.run(
        command,
        cwd=home,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def judged(home, launcher, output, *flags):
    """The scores, the attacks and the verdict of a run with NPO."""
    flags += ("--attacks", "adversarial_reinjection", "prompting", "--attack_steps", "2", "--attack_seeds", "0", "1")
    flags += ("--max_steps", "3", "--learning_rate", "1e-2", "--counterfactual", "false")
    flags += ("--stop_at_forget_rouge_l", "0", "--forget_check_steps", "2")  # generates while the model is in shards
    done = launch(home, launcher, "npo.py", output, *flags)
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads((home / output / "results.json").read_text())
    assert results["training"]["steps"] == 3
    verdict = json.loads((home / output / "verdict.json").read_text())
    return {"scores": results["scores"], "attacks": results["attacks"], "verdict": verdict}


def assert_close(found, expected, where=""):
    """Equal, but for rounding."""
    assert type(found) is type(expected), where
    if isinstance(found, dict):
        assert found.keys() == expected.keys(), where
        for key in found.keys() - {"sha256"}:  # of a file, in which the last digits may differ
            assert_close(found[key], expected[key], f"{where}/{key}")
    elif isinstance(found, list):
        assert len(found) == len(expected), where
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_close(*pair, f"{where}/{number}")
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(found, float) else expected), where


@pytest.fixture(scope="module")
def plain(home):
    """What plain data parallelism comes to, by flag."""
    return {flags: judged(home, "cpu.yaml", "-".join(["plain", *flags]), *flags) for flags in ((), FULL)}


@pytest.mark.long
@pytest.mark.parametrize("launcher, flags", [("fsdp2", FULL), ("deepspeed_zero2", ()), ("zero3", FULL), ("zero3", ())])
def test_a_sharded_recipe_comes_to_the_verdict_of_plain_data_parallelism(launcher, flags, home, plain):
    if launcher != "fsdp2":
        pytest.importorskip("deepspeed")
    assert_close(judged(home, f"{launcher}.yaml", "-".join([launcher, *flags]), *flags), plain[flags])
    attacked = plain[flags]["attacks"]["adversarial_reinjection"]
    assert attacked["unlearned"] != attacked["original"]


@pytest.mark.parametrize("config_class", [SsiuuConfig, SAMConfig])
@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
def test_methods_that_cannot_be_sharded_refuse_it_before_anything_is_loaded(config_class, name, tmp_path, monkeypatch):
    config_class(output_dir=str(tmp_path), use_cpu=True)
    monkeypatch.setattr(UnlearnConfig, "sharded_by", name)  # transformers looks at the launcher's variables itself
    with pytest.raises(ValueError, match=f"^{name}: .*; start with plain data parallelism"):
        config_class(output_dir=str(tmp_path), use_cpu=True)


def test_sharding_is_asked_for_at_the_launcher_or_by_an_argument(tmp_path, monkeypatch):
    config = UnlearnConfig(output_dir=str(tmp_path), use_cpu=True)
    assert config.sharded_by is None
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert config.sharded_by == "DeepSpeed"
    config.fsdp = True
    assert config.sharded_by == "FSDP"
