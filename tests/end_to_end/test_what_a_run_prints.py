"""The lines of a real run as they stand on the terminal: what is about to happen, and what the progress bar says."""

import json
import re

import pytest
from command_line import run

SIZES = (64, 160, 2)  # width, inner width and blocks of the tiny world's Llama


@pytest.fixture(scope="module")
def printed(cache, tmp_path_factory):
    """Standard output and standard error of a run of six steps, and its folder."""
    folder = tmp_path_factory.mktemp("printed")
    flags = ["--data", "fictional:tiny", "--attacks", "none", "--max_steps", "6", "--logging_steps", "2"]
    flags += ["--lora_r", "2", "--lora_alpha", "4", "--per_device_train_batch_size", "3", "--retain_loss", "kl"]
    flags += ["--gradient_accumulation_steps", "2", "--stop_at_forget_exact_match", "0"]
    done = run("recipes/npo.py", *flags, cache=cache, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr, folder / "outputs" / "npo"


def test_the_banner(printed):
    lines = {line.split()[0]: line for line in printed[0].splitlines() if line.startswith("  ") and line.split()}
    results = json.loads((printed[2] / "results.json").read_text())
    rows = {name: len((printed[2] / f"{name}.jsonl").read_text().splitlines()) for name in ("forget", "retain")}
    assert re.search(rf"^npo on {re.escape(results['paths']['original'])}$", printed[0], re.MULTILINE)
    assert lines["data"].endswith(f": {rows['forget']} forget, {rows['retain']} retain, 115 general rows")
    assert lines["facts"] == f"  facts      {rows['forget']} rows, {rows['forget'] // 3} facts, 1 person"
    # a pair of matrices for each of the seven linear maps of each block of the tiny world's Llama
    pattern = r"([\d,]+) of ([\d,]+) parameters \(([\d.]+)%\), cpu"
    trainable, total, share = re.search(pattern, lines["trainable"]).groups()
    trainable, total = (int(number.replace(",", "")) for number in (trainable, total))
    width, inner, blocks = SIZES
    assert trainable == 2 * blocks * (4 * 2 * width + 3 * (width + inner))
    assert float(share) == pytest.approx(100 * trainable / total, abs=0.05)
    assert "6 forget + 6 retain + 6 general rows a step" in lines["batch"]
    assert re.search(r"longest row \d+ tokens$", lines["batch"])
    assert lines["reference"].endswith("log-probabilities of the forget rows, computed once; the adapter switched off")
    parts = re.search(r"about ([\d.]+) MB a device \((.*)\)", lines["memory"])
    named = re.findall(r"(\w+) ([\d.]+) (KB|MB)", parts[2])
    assert [name for name, _, _ in named] == ["weights", "gradients", "optimizer", "activations", "logits"]
    megabytes = sum(float(value) / (1 if unit == "MB" else 1024) for _, value, unit in named)
    assert float(parts[1]) == pytest.approx(megabytes, abs=0.3)
    assert "attacks" not in lines  # there are none
    assert lines["stops"].startswith("  stops at   forget exact_match <= 0, forget probability <= 0.45, or after ")


def test_the_progress_bar(printed):
    """At the last log line it shows what that line holds."""
    log = json.loads((printed[2] / "results.json").read_text())["training"]["log"]
    last = [line for line in log if "loss" in line][-1]
    shown = [text for text in re.split(r"[\r\n]", printed[1]) if text.startswith("unlearning: 100%")][-1]
    assert "| 6/6 [" in shown
    values = dict(re.findall(r"(forget|retain|loss)=([\d.]+)", shown))
    assert values == {
        "forget": f"{last['forget/probability']:.3f}",
        "retain": f"{last['retain/probability']:.3f}",
        "loss": f"{last['loss']:.3f}",
    }
    assert 0 < float(values["forget"]) < 1 and 0 < float(values["retain"]) < 1
