"""One short run: its lines on the terminal, the same run by its saved configuration, its abilities by other means."""

import json
import re

import pytest
import torch
from command_line import run
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_unlearn import load_unlearning_data

SIZES = (64, 160, 2)  # width, inner width and blocks of the tiny world's Llama


@pytest.fixture(scope="module")
def printed(cache, tmp_path_factory):
    """Standard output and standard error of a run of six steps, and its folder."""
    folder = tmp_path_factory.mktemp("printed")
    flags = ["--data", "fictional:tiny", "--attacks", "none", "--max_steps", "6", "--logging_steps", "2"]
    flags += ["--lora_r", "2", "--lora_alpha", "4", "--per_device_train_batch_size", "3", "--retain_loss", "kl"]
    flags += ["--gradient_accumulation_steps", "2", "--stop_at_forget_exact_match", "0"]
    flags += ["--learning_rate", "1e-2", "--seed", "7"]
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


def test_a_saved_configuration_repeats_its_run(printed, cache, tmp_path):
    config = str(printed[2] / "config.yaml")
    done = run("recipes/npo.py", "--config", config, "--output_dir", "second", cache=cache, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (printed[2], tmp_path / "second"))
    assert first["scores"] == second["scores"] and first["training"]["steps"] == 6
    assert first["abilities"] == second["abilities"]


def test_abilities_row_by_row(printed):
    """Of the saved adapter, by a plain loop that has nothing of this package but rows."""
    results = json.loads((printed[2] / "results.json").read_text())
    claimed = results["abilities"]["unlearned"]
    data = load_unlearning_data("fictional:tiny")
    sets = {"general": data.evaluation["general"], "instructions": data.evaluation["chat"]}
    sets |= {f"retain_{style}": rows for style, rows in data.retain_queries.items()}
    tokenizer = AutoTokenizer.from_pretrained(printed[2] / "adapter")
    base = AutoModelForCausalLM.from_pretrained(results["paths"]["original"])
    model = PeftModel.from_pretrained(base, printed[2] / "adapter").eval()
    for name, rows in sets.items():
        probabilities, matches = [], []
        for row in rows:
            messages = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
            prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template(messages, tokenize=False)
            start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
            ids = tokenizer(whole, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.no_grad():
                logps = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
            answer = ids[0, start:]
            probabilities.append(logps[range(len(answer)), answer].mean().exp().item())
            matches.append(float((logps.argmax(-1) == answer).all()))
        found = claimed[name]
        assert found["rows"] == len(rows)
        assert found["probability"] == pytest.approx(sum(probabilities) / len(rows), abs=1e-4)
        assert found["exact_match"] == pytest.approx(sum(matches) / len(rows), abs=1e-4)
    changes = [results["abilities"]["original"][name]["probability"] - claimed[name]["probability"] for name in sets]
    assert max(map(abs, changes)) > 2e-4  # beyond the tolerance, or the adapter could be missing above
