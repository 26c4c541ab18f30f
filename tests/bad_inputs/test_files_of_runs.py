"""What earlier runs left: caches, outcomes, checkpoints, results; and the folder and the disk of the next one.

Checkpoints of another method or of other rows: tests/training/test_checkpoints.py. Evaluation logs:
tests/files/test_log_files.py.
"""

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from bad_commands import MODEL, QUICK, RECIPE, ROWS, run, snapshot

from llm_unlearn.errors import InputError, StorageError
from llm_unlearn.files.disk import check_free_space, check_output_dir, size_words
from llm_unlearn.files.outcomes import remember
from llm_unlearn.models import cache, embedded

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def cached(place, monkeypatch) -> Path:
    """The place of the tiny embedded model, where an untrained one stands in for it."""
    folder, _ = embedded._place("tiny", None, 0)
    shutil.copytree("original", folder)
    return folder


def test_a_damaged_model_in_the_cache(cached, refused):
    weights = cached / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    refused(RECIPE, ["--data", "fictional:tiny", *QUICK], "is damaged", f"remove the folder {cached}")


def test_a_lock_that_was_left_behind_stops_nobody(cached):
    Path(f"{cached}.lock").touch()
    (cached.with_name(f"{cached.name}.unfinished")).mkdir()
    assert embedded.embedded_model("tiny") == cached


def test_a_cache_that_is_a_file(place, monkeypatch, refused):
    (place / "cache").write_text("")
    refused(RECIPE, ["--data", "fictional:tiny", *QUICK], "LLM_UNLEARN_CACHE moves it", "is a file; give a folder")


def test_a_cache_that_may_only_be_read_keeps_no_outcomes(cached, monkeypatch):
    assert cache.outcomes_folder(str(cached)) == Path(f"{cached}.outcomes")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cache.outcomes_folder(str(cached)) is None


@pytest.mark.parametrize("content", ["", '{"digest": "x', "[]", '{"digest": 1}', '{"outcome": {}}', "\0"])
def test_a_damaged_outcome_is_found_again(tmp_path, content, caplog):
    file = tmp_path / "attack.json"
    file.write_text(content)
    assert remember(file, "key", lambda: {"value": 1}) == {"value": 1}
    assert json.loads(file.read_text())["outcome"] == {"value": 1}
    assert ("is damaged" in caplog.text) == (content != '{"digest": 1}')


RESUMED = {
    "missing": ("missing", ["missing holds no complete checkpoint", "`last` takes the newest"]),
    "a model's folder": ("original", ["original holds no complete checkpoint (no trainer_state.json)"]),
    "half of one": ("half", ["half holds no complete checkpoint"]),
}


@pytest.mark.parametrize("name", RESUMED)
def test_checkpoints_that_are_none(name, place):
    """The trainer itself looks for the checkpoint, before its first step."""
    (place / "half").mkdir()
    shutil.copy("adapter/adapter_model.safetensors", "half")
    path, words = RESUMED[name]
    before = snapshot(place)
    done = run(RECIPE, [*MODEL, *ROWS, *QUICK, "--resume_from_checkpoint", path])
    assert done.code == 2 and all(word in done.stderr for word in words), done.stderr[-1000:]
    assert snapshot(place) == before


REPORTS = {
    "no folder": ("missing", None, ["missing is not a folder", "--output_dir"]),
    "a file": ("forget.jsonl", None, ["forget.jsonl is not a folder"]),
    "no results": ("original", None, ["results.json cannot be read (No such file"]),
    "results cut off": ("run", '{"scores": {', ["results.json is not valid JSON"]),
    "a list": ("run", "[]", ["results.json holds a list"]),
    "an older version's": ("run", '{"scores": {}}', ["has no 'attacks', which a verdict needs", "older version"]),
}


@pytest.mark.parametrize("name", REPORTS)
def test_reports(name, place, refused):
    folder, text, words = REPORTS[name]
    (place / "run").mkdir()
    if text is not None:
        (place / "run" / "results.json").write_text(text)
    refused("llm_unlearn", ["report", folder], *words)


COMMANDS = {
    "tofu: a log that is none": (
        "benchmarks/tofu.py",
        ["--recompute", "forget.jsonl"],
        ["--recompute forget.jsonl, line 2", "not valid JSON"],
    ),
    "tofu: no log": ("benchmarks/tofu.py", ["--recompute", "none.json"], ["--recompute none.json cannot be read"]),
    "tofu: unlearned is no model": (
        "benchmarks/tofu.py",
        [*MODEL, *ROWS, "--unlearned_model_name_or_path", "cache"],
        ["the folder 'cache' has none of config.json"],
    ),
    "tofu: an empty batch": ("benchmarks/tofu.py", [*MODEL, *ROWS, "--batch_size", "0"], ["batch_size=0 must be 1"]),
    "tofu: output_dir is a file": (
        "benchmarks/tofu.py",
        [*MODEL, *ROWS, "--output_dir", "forget.jsonl"],
        ["output_dir='forget.jsonl'"],
    ),
    "influence: nothing to compare": ("benchmarks/influence.py", [*MODEL, *ROWS], ["give --unlearned_model_name_or"]),
    "influence: output_dir is a file": (
        "benchmarks/influence.py",
        [*MODEL, *ROWS, "--output_dir", "forget.jsonl"],
        ["is a file; give a folder"],
    ),
    "robustness: unknown method": (
        "benchmarks/robustness.py",
        [*MODEL, *ROWS, "--use_cpu", "--methods", "npoo"],
        ["methods: 'npoo'"],
    ),
    "robustness: output_dir is a file": (
        "benchmarks/robustness.py",
        [*MODEL, *ROWS, "--use_cpu", "--report_to", "none", "--output_dir", "forget.jsonl"],
        ["is a file; give a folder"],
    ),
    "attack: output_dir is a file": (
        "benchmarks/benign_relearning.py",
        [*MODEL, *ROWS, "--output_dir", "forget.jsonl/out"],
        ["is a file; give a folder"],
    ),
    "references: output_dir is a file": (
        "recipes/train_references.py",
        [*ROWS, "--output_dir", "forget.jsonl"],
        ["is a file; give a folder"],
    ),
    "references: nothing to keep": (
        "recipes/train_references.py",
        ["--forget_file", "forget.jsonl"],
        ["there are no retain rows", "--retain_file"],
    ),
    "references: width": (
        "recipes/train_references.py",
        [*ROWS, "--hidden_size", "100", "--heads", "3"],
        ["hidden_size=100 must be a multiple of twice heads=3"],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_other_commands(name, place, refused):
    (place / "cache").mkdir()
    command, flags, words = COMMANDS[name]
    refused(command, flags, *words)


def test_ssiuu_without_such_a_layer(refused):
    refused("recipes/ssiuu.py", [*MODEL, *ROWS, *QUICK, "--layers", "7"], "layers: the model has no block 7")


# ---- the folder and the disk -----------------------------------------------------------------------------------------


def test_a_disk_too_small_ends_a_run_before_it_begins(refused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1000))
    steps = ["--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "2"]
    words = ["output_dir='outputs/npo'", "the run writes about", "the disk has 1000 B left", "--save_total_limit"]
    refused(RECIPE, [*MODEL, *ROWS, *QUICK, *steps], *words, code=4)


def test_a_disk_too_small_for_references(refused, monkeypatch):
    """Of the two, an original and one oracle; half of them fit."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 4 * 18_848))
    words = ["the run writes about 147.2 KB (the weights of 2 models)", "has 73.6 KB left", "fewer oracles with"]
    refused("recipes/train_references.py", [*MODEL, *ROWS, "--oracle_seeds", "1"], *words, code=4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1000))
    refused("recipes/train_references.py", ROWS, "(the weights of 4 models)", "has 1000 B left", code=4)


def test_a_disk_too_small_for_a_comparison(refused, monkeypatch):
    """Adapters of rank 4 have 3,712 weights of 4 bytes; those of three runs do not fit, those of two would."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 2 * 3_712 * 4))
    flags = [*MODEL, *ROWS, "--use_cpu", "--report_to", "none", "--lora_r", "4", "--stop_at_forget_probability", "0.1"]
    flags += ["--methods", "npo", "--seeds", "1", "2", "3", "--learning_rates", "1e-4"]
    words = ["the run writes about 43.5 KB (weights and checkpoints of 3 runs)", "has 29.0 KB left", "fewer --seeds"]
    refused("benchmarks/robustness.py", flags, *words, code=4)


def test_a_comparison_in_4_bits(refused):
    flags = ["--use_cpu", "--stop_at_forget_probability", "0.1", "--load_in_4bit"]
    refused("benchmarks/robustness.py", [*MODEL, *ROWS, *flags], "load_in_4bit: methods are compared on whole base")


def test_what_a_run_replaces_counts_as_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 100))
    check_free_space(tmp_path / "new" / "run", 100)
    with pytest.raises(StorageError, match=r"about 101 B .* 100 B left"):
        check_free_space(tmp_path / "new" / "run", 101)
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "weights").write_bytes(b"1")
    check_free_space(tmp_path, 101)
    for kept in ("earlier-1", "adapter"):  # moved aside, and not away
        (tmp_path / kept).mkdir()
        (tmp_path / kept / "weights").write_bytes(b"22")
    with pytest.raises(StorageError, match=r"about 102 B .* 100 B left"):
        check_free_space(tmp_path, 102)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_only_be_read(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match=r"nothing can be written to .*Permission denied"):
        check_output_dir(tmp_path / "run")


def test_an_output_folder_is_not_made_by_looking(tmp_path):
    check_output_dir(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="nothing can be written to /proc"):
        check_output_dir("/proc/run")


@pytest.mark.parametrize(("size", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KB"), (3 * 2**40, "3.0 TB")])
def test_sizes_in_words(size, words):
    assert size_words(size) == words
