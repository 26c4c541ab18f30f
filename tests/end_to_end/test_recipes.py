"""Recipes and benchmarks as a user types them: through the command line, on the tiny fictional world and on files."""

import json
import re
from pathlib import Path

import pytest
from command_line import run


def test_dry_run_shows_a_batch_and_trains_nothing(cache, tmp_path):
    done = run("recipes/gradient_ascent.py", "--data", "fictional:tiny", "--dry_run", cache=cache, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "retain_weight: 30.0" in done.stdout and "<|end|>]" in done.stdout and "trainable" in done.stdout
    roles = [
        line.split()[0] for line in done.stdout.splitlines() if line.startswith(("forget  ", "retain  ", "general  "))
    ]
    assert roles == ["forget"] * 16 + ["retain"] * 16 + ["general"] * 16
    assert "16 forget + 16 retain + 16 general rows a step" in done.stdout
    assert not list(tmp_path.rglob("results.json"))
    # the lines of the banner: the attacker trains every weight, with two states of AdamW for each
    size = re.search(
        r"  attacks +about .+ a device \(weights .+, gradients (.+), optimizer (.+), activations .+", done.stdout
    )
    gradients, states = (float(text.split()[0]) for text in size.groups())
    assert states == pytest.approx(2 * gradients, rel=0.2) and size[0].endswith("computing in float32")


def test_a_dry_run_says_where_abilities_are_not_protected(cache, tmp_path):
    flags = ("--data", "fictional:tiny", "--general_data", "none", "--dry_run")
    done = run("recipes/npo.py", *flags, cache=cache, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "  general    none: abilities beyond the retain rows are not protected; --general_data FILE" in done.stdout
    assert "16 forget + 16 retain rows a step" in done.stdout and ": 21 forget, 231 retain rows" in done.stdout


def test_a_run_on_ones_own_model_and_rows_has_the_folder_of_its_method(cache, tmp_path, monkeypatch):
    from llm_unlearn.methods import load_method
    from llm_unlearn.models.embedded import embedded_model
    from llm_unlearn.runs.recipe import Recipe

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(cache))
    write_bad_files(tmp_path)
    rows = ["--forget_file", "rows.jsonl", "--retain_file", "other.jsonl"]
    argv = ["--model_name_or_path", str(embedded_model("tiny")), *rows]
    recipe = Recipe.from_command_line(load_method("npo"), argv)
    assert recipe.args.output_dir == "outputs/npo"
    assert recipe.args.retain_weight == 1.0  # all else has the defaults for large models
    recipe = Recipe.from_command_line(load_method("npo"), [*argv, "--output_dir", "elsewhere"])
    assert recipe.args.output_dir == "elsewhere"


@pytest.fixture(scope="module")
def hub_like_models(tmp_path_factory) -> dict[str, Path]:
    """Random models of three families, with tokenizers whose pad token is their end token, or that have none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    folder = tmp_path_factory.mktemp("models")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *alphabet])}
    small = {"vocab_size": len(vocabulary), "eos_token_id": 0, "bos_token_id": 0}
    common = small | {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    built = {
        "llama": LlamaForCausalLM(LlamaConfig(**common)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**common)),
        "gpt2": GPT2LMHeadModel(GPT2Config(**small, n_embd=32, n_layer=2, n_head=2, n_positions=1024)),
    }
    for name, model in built.items():
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        pad = {"pad_token": "<|endoftext|>"} if name != "gpt2" else {}  # GPT-2's own has no pad token at all
        wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", **pad)
        if name == "qwen2":
            wrapped.chat_template = (
                "{% for m in messages %}{{ m.role + ': ' + m.content + '<|endoftext|>\\n' }}{% endfor %}"
                "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
            )
        model.save_pretrained(folder / name)
        wrapped.save_pretrained(folder / name)
    return {name: folder / name for name in built}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "recipe"),
    [
        ("gpt2", "ssiuu"),
        pytest.param("llama", "npo", marks=pytest.mark.long),
        pytest.param("qwen2", "gradient_ascent", marks=pytest.mark.long),
        pytest.param("gpt2", "sam", marks=pytest.mark.long),
    ],
)
def test_tofu_with_a_local_model_runs_to_the_end(family, recipe, hub_like_models, shared_data, cache, tmp_path):
    tofu = tmp_path / "tofu"  # the same files, shortened: byte-level tokens are many
    tofu.mkdir()
    for name in ("forget01", "forget01_perturbed", "retain99", "holdout01"):
        text = (shared_data / "tofu" / f"{name}.json").read_text()
        rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line]
        (tofu / f"{name}.json").write_text(json.dumps(rows[:6]))
    done = run(
        f"recipes/{recipe}.py",
        *("--data", str(tofu), "--forget_split", "forget01", "--retain_split", "retain99"),
        *("--model_name_or_path", str(hub_like_models[family]), "--max_steps", "2", "--attack_steps", "2"),
        *("--attack_seeds", "0", "--per_device_train_batch_size", "2", "--output_dir", "out"),
        *("--per_device_eval_batch_size", "128"),  # their answers have no end
        cache=cache,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["scores"]) == {"original", "unlearned"} and results["training"]["steps"] == 2
    assert "no oracle" in done.stdout.lower()


def bad_inputs() -> dict[str, tuple[list[str], str]]:
    """Name -> (flags, what the one line on stderr says)."""
    model = ["--model_name_or_path", "missing/model/folder"]
    return {
        "misspelt flag": (["--learning_rat", "1e-3"], "did you mean --learning_rate?"),
        "misspelt key in the file": (["--config", "misspelt.yaml"], "did you mean retain_weight?"),
        "no such model": ([*model, "--data", "fictional:tiny"], "missing/model/folder"),
        "empty forget set": ([*model, "--forget_file", "empty.jsonl", "--retain_file", "rows.jsonl"], "empty"),
        "overlapping sets": (
            [*model, "--forget_file", "rows.jsonl", "--retain_file", "rows.jsonl"],
            "in the retain set too",
        ),
        "missing column": ([*model, "--forget_file", "columns.jsonl", "--retain_file", "rows.jsonl"], "answer"),
        "unknown split": (["--data", "fictional:tiny", "--forget_split", "forget1"], "forget01"),
        "unknown size": (["--data", "fictional:tinny"], "tiny"),
        "rows without a model": (["--forget_file", "rows.jsonl", "--retain_file", "other.jsonl"], "model_name_or_path"),
        "threshold out of range": (["--stop_at_forget_probability", "30"], "between 0 and 1"),
        "unknown attack": (["--attacks", "benign"], "benign_relearning"),
        "unknown attacker": (["--attackers", "adapter"], "full, lora"),
        "unknown column": (
            ["--data", "fictional:tiny", "--attacks", "leave_one_group_out", "--leave_out_column", "persn"],
            "choose from question, answer, person",
        ),
        "attack of no steps": (["--attack_steps", "0"], "steps"),
        "all facts reinjected": (["--reinjection_fraction", "1.0"], "fraction"),
        "no such instructions": (["--data", "fictional:tiny", "--benign_data", "missing.json"], "missing.json"),
        "unknown dtype": (["--data", "fictional:tiny", "--dtype", "float8"], "float8"),
    }


@pytest.mark.parametrize("name", bad_inputs())
def test_bad_input_ends_with_one_clear_line(name, cache, tmp_path, monkeypatch, capsys):
    """In this process, because imports take most of a run's time; one of them again as a real process below."""
    from llm_unlearn import SsiuuTrainer
    from llm_unlearn.arguments.parsing import run_main
    from llm_unlearn.methods import load_method
    from llm_unlearn.runs.recipe import Recipe

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(cache))
    write_bad_files(tmp_path)
    flags, expected = bad_inputs()[name]

    def main():
        recipe = Recipe.from_command_line(load_method("ssiuu"), flags)
        recipe.run(SsiuuTrainer(**recipe.trainer_arguments()))

    with pytest.raises(SystemExit) as stopped:
        run_main(main)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert stopped.value.code == 2 and len(errors) == 1
    assert expected in errors[0]


def test_bad_input_as_a_real_process(cache, tmp_path):
    write_bad_files(tmp_path)
    done = run("recipes/ssiuu.py", "--learning_rat", "1e-3", cache=cache, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and done.stderr.strip().splitlines()[-1].startswith("error: unknown flag")


def write_bad_files(folder: Path) -> None:
    rows = [{"question": f"Question {i}?", "answer": f"Answer {i}."} for i in range(4)]
    write_lines(folder / "rows.jsonl", rows)
    write_lines(folder / "other.jsonl", [{"question": "Another?", "answer": "Yes."}])
    write_lines(folder / "columns.jsonl", [{"question": "Why?", "anser": "So."}])
    write_lines(folder / "empty.jsonl", [])
    (folder / "misspelt.yaml").write_text("retain_wieght: 2\n")


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
