"""Uploads through the real client: what arrives, what never leaves, and every way in which a hub can fail."""

import json

import pytest
from huggingface_hub import constants
from loopback_hub import DROP, READ
from safetensors.torch import load_file

from llm_unlearn.cli.main import main
from llm_unlearn.errors import HubError, InputError, StorageError
from llm_unlearn.hub import push_run

NAME = "me/npo"


def test_a_run_arrives_in_one_commit_and_private(hub, run, finished_run, figures):
    pushed = push_run(run, NAME)
    repository = hub.repositories[NAME]
    assert repository.private and repository.commits == 1 and pushed.commit_url.startswith(hub.url)
    assert set(repository.files) == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json"),
        *("tokenizer_config.json", "results.json", "verdict.json", "report.html"),
        *(f"records/{model}.json" for model in ("original", "oracle", "unlearned")),
    }
    assert repository.files["adapter_model.safetensors"] == (run / "adapter" / "adapter_model.safetensors").read_bytes()
    everything = b"\n".join(repository.files.values()).decode("latin-1")
    for private in ("Quillfeather", "white bread", "of all places", str(run), str(finished_run[1]), "home-of-the-run"):
        assert private not in everything
    assert (run / "forget.jsonl").is_file() and b"Quillfeather" in (run / "report.html").read_bytes()  # local: complete


def test_a_second_push_replaces_what_the_first_sent(hub, run):
    push_run(run, NAME)
    hub.repositories[NAME].files["notes.txt"] = b"somebody's own"
    push_run(run, NAME, "merged")
    files = hub.repositories[NAME].files
    assert "model.safetensors" in files and "notes.txt" in files
    assert "adapter_model.safetensors" not in files and "adapter_config.json" not in files
    assert "_name_or_path" not in json.loads(files["config.json"])


def test_a_repository_that_is_public_is_not_written_to_unasked(hub, run):
    push_run(run, NAME, private=False)
    assert not hub.repositories[NAME].private
    with pytest.raises(InputError, match=r"me/npo is public.*--hub_private_repo false"):
        push_run(run, NAME)
    assert hub.repositories[NAME].commits == 1
    push_run(run, "me/mine")
    with pytest.raises(InputError, match="hub_private_repo=false: me/mine is there and private"):
        push_run(run, "me/mine", private=False)


def test_without_a_name_the_folder_gives_it_and_the_card_knows_its_owner(hub, run):
    push_run(run, revision="experiment")
    assert b'load_unlearned("me/run"' in hub.repositories["me/run"].files["README.md"]
    assert hub.asked("POST", "/branch/experiment") and hub.asked("POST", "/commit/experiment")


@pytest.mark.parametrize(
    ("where", "failure", "advice"),
    [
        (("POST", "/api/repos/create"), 401, "log in again with `hf auth login`"),
        (("POST", "/api/repos/create"), 403, "make one with write access"),
        (("POST", "/commit/"), 403, "make one with write access"),
        (("POST", "/preupload/"), 429, "too many requests (429): wait"),
        (("POST", "/commit/"), 429, "too many requests (429): wait"),
        (("POST", "/objects/batch"), 500, "the hub is not well (500): wait"),
        (("PUT", "/large/"), 500, "the hub is not well (500): wait"),
        (("POST", "/commit/"), 500, "the hub is not well (500): wait"),
        (("POST", "/api/repos/create"), DROP, "check the network"),
        (("PUT", "/large/"), DROP, "check the network"),
        (("POST", "/commit/"), DROP, "check the network"),
    ],
)
def test_every_failure_says_what_to_do_and_the_retry_succeeds(where, failure, advice, hub, run, capsys):
    hub.failures[where] = failure
    with pytest.raises(SystemExit) as stopped:
        main(["push", str(run), "--hub_model_id", NAME])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 5
    assert line.startswith("error: the upload to me/npo failed: ") and advice in line
    command = f"llm-unlearn push {run} --hub_model_id me/npo"
    assert line.endswith(f"Try again with: {command}")
    assert NAME not in hub.repositories or not hub.repositories[NAME].files  # all or nothing
    for name in ("adapter/adapter_model.safetensors", "results.json", "forget.jsonl", "hub/README.md"):
        assert (run / name).stat().st_size > 0
    hub.failures.clear()
    main(command.split()[1:])
    assert hub.repositories[NAME].commits == 1 and hub.repositories[NAME].private


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "log in again with `hf auth login`"),
        (403, "make one with write access"),
        (404, "speaks no xet (404), with which large files are sent: set HF_HUB_DISABLE_XET=1"),
    ],
)
def test_xet_fails_like_the_hub_and_can_be_switched_off(status, advice, hub, run, monkeypatch):
    """Where hf_xet is installed, the client sends weights with it, whatever the hub speaks."""
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.failures["GET", "/xet-write-token/"] = status
    with pytest.raises(HubError) as failed:
        push_run(run, NAME)
    assert advice in str(failed.value) and "Try again with: llm-unlearn push" in str(failed.value)
    assert hub.asked("GET", "/xet-write-token/main") and not hub.asked("PUT", "/large/")
    assert not hub.repositories[NAME].files
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    push_run(run, NAME)
    assert len(hub.asked("PUT", "/large/")) == 1 and hub.repositories[NAME].commits == 1


@pytest.mark.parametrize("error", [ConnectionError, RuntimeError, PermissionError])
def test_what_else_xet_says_is_passed_on_with_the_way_out(error, hub, run, monkeypatch):
    def fail(**_):
        raise error("CAS service error")

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr("huggingface_hub._commit_api._upload_files", fail)
    with pytest.raises(HubError, match=f"{error.__name__}: CAS service error; check the network, and where xet cannot"):
        push_run(run, NAME)


def test_a_full_disk_is_no_failure_of_the_hub(hub, run, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llm_unlearn.hub.upload.build_edition", fail)
    with pytest.raises(StorageError, match=r"could not be prepared in .*No space left.*free some space"):
        push_run(run, NAME)
    assert hub.requests == []


def test_what_has_arrived_is_not_sent_again(hub, run):
    hub.failures["POST", "/commit/"] = DROP
    with pytest.raises(HubError):
        push_run(run, NAME)
    assert len(hub.asked("PUT", "/large/")) == 1
    hub.failures.clear()
    push_run(run, NAME)
    assert len(hub.asked("PUT", "/large/")) == 1


def test_one_dropped_connection_is_nothing(hub, run):
    """The client tries again by itself: the first attempt breaks, the next one passes."""
    hub.failures["PUT", "/large/"] = DROP

    class OnceOnly(list):
        def append(self, request):
            if request[0] == "PUT" and self and self[-1][0] == "PUT":
                hub.failures.clear()
            super().append(request)

    hub.requests = OnceOnly()
    push_run(run, NAME)
    assert len(hub.asked("PUT", "/large/")) == 2 and hub.repositories[NAME].commits == 1


def test_a_token_that_may_only_read(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ)
    with pytest.raises(HubError, match="may not write me/npo"):
        push_run(run, NAME)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"HF_TOKEN": None}, "nobody is logged in; run `hf auth login`"),
        ({"offline": True}, "HF_HUB_OFFLINE=1 forbids it"),
        ({"name": "me/npo/again"}, "is no name of a repository"),
        ({"missing": "forget.jsonl"}, "without the forget rows nobody can check"),
        ({"missing": "results.json"}, "results.json cannot be read"),
        ({"missing": "adapter/adapter_model.safetensors"}, "holds no .safetensors"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_anything_is_sent(change, message, hub, run, monkeypatch):
    if "HF_TOKEN" in change:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("llm_unlearn.hub.upload.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", change.get("offline", False))
    if "missing" in change:
        (run / change["missing"]).unlink()
    with pytest.raises(InputError, match=message):
        push_run(run, change.get("name", NAME))
    assert hub.requests == []


def test_a_whole_model_has_nothing_to_merge(hub, run):
    (run / "adapter").rename(run / "model")
    (run / "model" / "adapter_config.json").unlink()
    for kind in ("merged", "adapter"):
        with pytest.raises(InputError, match=rf"--push {kind}: .* is a whole model, without an adapter; leave the"):
            push_run(run, NAME, kind)


def test_the_merged_model_is_the_adapter_put_into_its_base(hub, run, finished_run):
    push_run(run, NAME, "merged")
    base = load_file(finished_run[1] / "model.safetensors")
    merged = load_file(run / "hub" / "model.safetensors")
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    lora = {part: adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in ("A", "B")}
    expected = base[f"{name}.weight"] + 2.0 * lora["B"] @ lora["A"]  # lora_alpha / lora_r
    assert merged[f"{name}.weight"].allclose(expected, atol=1e-6)
    assert b"publish the merged one" not in hub.repositories[NAME].files["README.md"]
