"""A pushed run, read back: the model, its evidence, and whether its card tells the truth."""

import json
import shutil
from dataclasses import replace

import pytest
from loopback_hub import DROP
from made_up_runs import change_json, reseal
from safetensors.torch import load_file, save_file

from llm_unlearn.cli.main import main
from llm_unlearn.data import load_unlearning_data
from llm_unlearn.errors import HubError, InputError
from llm_unlearn.hub import load_unlearned, push_run, verify
from llm_unlearn.models.loading import load_model, load_tokenizer

NAME = "me/npo"


@pytest.fixture
def data(run):
    return load_unlearning_data(forget_file=run / "forget.jsonl", retain_file=run / "retain.jsonl")


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_what_was_pushed_is_read_back_and_verified(kind, hub, run, finished_run, data):
    pushed = push_run(run, NAME, kind)
    base = {"base_model": str(finished_run[1])} if kind == "adapter" else {}
    hub.repositories[NAME].files |= {"evil.bin": b"pickle", "code.py": b"raise SystemExit"}
    unlearned = load_unlearned(NAME, pushed.oid, **base)
    folder = unlearned.evidence["folder"]
    assert not hub.asked("GET", "evil.bin|code.py") and pushed.oid in folder
    local = json.loads((run / "results.json").read_text())
    assert unlearned.evidence["results"]["scores"] == local["scores"]
    local = json.loads((run / "verdict.json").read_text())
    assert unlearned.evidence["verdict"] == {name: value for name, value in local.items() if name != "sha256"}
    assert set(unlearned.evidence["records"]) == {"original", "oracle", "unlearned"}
    assert not unlearned.model.training
    found = verify(unlearned, data, tolerance=1e-5)
    assert found.weights is True and found.agrees and len(found.checks) == 10 and not found.skipped
    assert found.base is (True if kind == "adapter" else None)


def test_another_base_is_told(hub, run, finished_run, data, tmp_path):
    push_run(run, NAME)
    weights = load_file(finished_run[1] / "model.safetensors")
    shutil.copytree(finished_run[1], tmp_path / "base")
    save_file({name: tensor * 0.5 for name, tensor in weights.items()}, tmp_path / "base" / "model.safetensors")
    found = verify(load_unlearned(NAME, base_model=str(tmp_path / "base")), data, tolerance=1e-5)
    assert (found.weights, found.base, found.agrees) == (True, False, False)
    assert "base: OTHER files than it was trained on" in str(found.table().title)


def test_a_run_folder_is_verified_without_any_hub(run, data):
    found = verify(load_unlearned(run), data, tolerance=1e-5)
    assert found.weights is True and found.agrees


def test_other_weights_and_other_scores_are_told(run, data, capsys):
    flags = ["verify", str(run), "--forget_file", str(run / "forget.jsonl"), "--retain_file", str(run / "retain.jsonl")]
    main(flags)
    assert "weights: those that were judged" in capsys.readouterr().out
    path = run / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor - 3.0 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(SystemExit) as stopped:
        main([*flags, "--tolerance", "0.0001"])
    printed = capsys.readouterr()
    assert stopped.value.code == 1 and "is not what its card says" in printed.err
    assert "weights: NOT those that were judged" in printed.out and "DIFFERS" in printed.out


def test_abilities_are_scored_again_and_what_the_rows_do_not_have_is_named(run, data):
    results = json.loads((run / "results.json").read_text())
    abilities = results["abilities"]["unlearned"]
    abilities["neighbor_nearest_question"]["probability"] += 0.1
    abilities["general"] = {"exact_match": 0.5, "probability": 0.5, "rows": 3}
    abilities["retain_prefix"]["rows"] += 1
    change_json(run / "results.json", **results)
    reseal(run)
    found = verify(load_unlearned(run), data)
    assert [check.what for check in found.checks if not check.agrees] == ["neighbors: nearest questions: probability"]
    rows = abilities["retain_prefix"]["rows"]
    assert found.skipped == [
        f"retained facts, with half of the answer given: the card is about {rows} rows, these are {rows - 1}",
        "general facts: the given rows have none",
    ]
    assert "not verified, general facts" in str(found.table().caption)


def test_other_rows_are_refused(run, data):
    change_json(run / "results.json", data={"forget_rows": 3})
    reseal(run)
    with pytest.raises(InputError, match="about 3 forget rows, these are 4"):
        verify(load_unlearned(run), data)


def test_other_rows_than_those_with_records_are_refused(run, data):
    """A run's folder has no number of its rows beside them."""
    fewer = replace(data, forget=data.forget.select(range(3)))
    with pytest.raises(InputError, match="about 4 forget rows, these are 3: give the rows of the run"):
        verify(load_unlearned(run), fewer)


def test_an_adapter_whose_base_is_unknown_says_so(hub, run):
    push_run(run, NAME)
    with pytest.raises(InputError, match=r"has no base_model_name_or_path: .* or give it as base_model"):
        load_unlearned(NAME)


@pytest.mark.parametrize(
    ("failure", "advice"),
    [(401, "log in again"), (403, "may not read me/npo"), (429, "wait some"), (500, "not well"), (DROP, "network")],
)
def test_a_download_that_fails_says_what_to_do(failure, advice, hub, run, capsys):
    push_run(run, NAME)
    hub.failures["GET", "/api/models/"] = failure
    with pytest.raises(SystemExit) as stopped:
        main(["verify", NAME, "--forget_file", str(run / "forget.jsonl")])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 5 and line.startswith("error: me/npo could not be downloaded: ") and advice in line


def test_a_name_that_nobody_has(hub):
    with pytest.raises(HubError, match="me/nobody is not there, or this token may not see it"):
        load_unlearned("me/nobody")
    with pytest.raises(InputError, match="is a folder, which has none"):
        load_unlearned(".", "main")


def test_a_pinned_revision_is_what_is_asked_for(hub, run):
    pushed = push_run(run, NAME, "merged")
    name = f"{NAME}@{pushed.oid}"
    assert load_model(name).config.model_type == "llama" and load_tokenizer(name).eos_token == "<end>"
    resolved = hub.asked("GET", "/resolve/") + hub.asked("HEAD", "/resolve/")
    assert resolved and all(f"/resolve/{pushed.oid}/" in path for path in resolved)
