"""A recipe with --push_to_hub as a user types it, a hub that refuses, and the command that the error names."""

import shlex
import sys

import pytest
from loopback_hub import WRITE

from llm_unlearn.cli.main import main
from llm_unlearn.errors import InputError
from llm_unlearn.hub import push_run
from llm_unlearn.methods import load_method
from llm_unlearn.runs.recipe import Recipe, unlearn


def test_a_recipe_pushes_at_its_end_and_loses_nothing_where_the_hub_refuses(
    hub, finished_run, tmp_path, monkeypatch, capsys
):
    home = finished_run[1].parent
    flags = ["--model_name_or_path", str(home / "base"), "--forget_file", str(home / "forget.jsonl")]
    flags += ["--retain_file", str(home / "retain.jsonl"), "--attacks", "none", "--max_steps", "1", "--use_cpu"]
    flags += ["--output_dir", "out", "--push_to_hub", "--hub_model_id", "me/npo", "--push", "merged", "--disable_tqdm"]
    hub.failures["POST", "/api/repos/create"] = 403
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["npo.py", *flags])
    with pytest.raises(SystemExit, match="5"):
        unlearn("npo")
    printed = capsys.readouterr()
    line = printed.err.strip().splitlines()[-1]
    assert "Traceback" not in printed.err and line.startswith("error: the upload to me/npo failed: the token may not")
    assert "Everything is in out/" in printed.out and WRITE not in printed.out + printed.err
    command = line.partition("Try again with: ")[2]
    assert command == "llm-unlearn push out --hub_model_id me/npo --push merged"
    hub.failures.clear()
    main(shlex.split(command)[1:])
    repository = hub.repositories["me/npo"]
    assert repository.private and "model.safetensors" in repository.files
    everything = b"\n".join(repository.files.values())
    assert not any(text.encode() in everything for text in ("Quillfeather", str(tmp_path), home.name, WRITE))


def test_a_dry_run_shows_what_would_be_sent(hub, run, capsys):
    main(["push", str(run), "--hub_model_id", "me/npo", "--dry_run"])
    printed = capsys.readouterr().out
    assert "  adapter_model.safetensors" in printed and "Checked, not sent" in printed
    assert "training_args.bin" not in printed and hub.requests == []


def test_a_folder_without_a_run_is_said_before_a_missing_login(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(
        InputError, match=r"results\.json cannot be read .*run the recipe again, or give another folder"
    ):
        push_run(tmp_path, "me/nothing")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--push_to_hub"], "HF_HUB_OFFLINE=1 forbids it"),
        (["--push_to_hub", "--hub_strategy", "checkpoint"], "hub_strategy=checkpoint and hub_always_push upload"),
        (["--push", "merged", "--full_finetuning"], "--full_finetuning trains none"),
        (["--push", "everything"], "one of adapter, merged"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_training(flags, message):
    with pytest.raises(InputError, match=message):
        Recipe.from_command_line(load_method("npo"), ["--data", "fictional:tiny", *flags])
