"""The folder of a run: locked, cleared of what an earlier run left, and its evidence about its own weights."""

import hashlib
from pathlib import Path

import fork_server
import pytest

from llm_unlearn import InputError
from llm_unlearn.files.run_folder import (
    check_judged_weights,
    check_weights,
    locked,
    model_digests,
    move_aside,
    weights_folder,
)

OF_A, OF_B = (hashlib.sha256(text).hexdigest() for text in (b"a", b"b"))


def test_a_folder_has_one_run_at_a_time(tmp_path):
    folder = tmp_path / "out"
    with locked(folder), pytest.raises(InputError, match="another run is writing there; wait for its end, or give an"):
        locked(folder).__enter__()
    with locked(str(folder)) as again:
        assert again == folder
    assert list(folder.iterdir()) == []


def test_a_run_that_was_killed_holds_nothing(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(
        "import os; from llm_unlearn.files.run_folder import locked; locked('out').__enter__(); os._exit(9)"
    )
    assert fork_server.run([str(script)], cwd=tmp_path).returncode == 9
    with locked(tmp_path / "out"):
        pass


def test_what_an_earlier_run_left_is_moved_and_what_a_later_one_can_use_stays(tmp_path):
    assert move_aside(tmp_path) is None
    evidence = [
        "results.json",
        "verdict.json",
        "report.html",
        "recovery.png",
        "adapter/a.safetensors",
        "records/u.json",
    ]
    stays = ["attacks/reinjection-unlearned.json", "reference_log_probs.json", "checkpoint-5/x", "mine.txt"]
    for number in (1, 2):
        for name in evidence + stays:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(f"{number}")
        earlier = move_aside(tmp_path)
        assert earlier == tmp_path / f"earlier-{number}"
        assert [(earlier / name).read_text() for name in evidence] == [f"{number}"] * len(evidence)
        assert not any((tmp_path / name).exists() for name in evidence)
        assert all((tmp_path / name).is_file() for name in stays)


def make_run(folder: Path, kind: str = "adapter", content: bytes = b"a") -> dict:
    (folder / kind).mkdir(parents=True)
    name = "adapter_model.safetensors" if kind == "adapter" else "model.safetensors"
    (folder / kind / name).write_bytes(content)
    (folder / kind / "training_args.bin").write_bytes(b"no weights")
    return {"weights": model_digests(folder / kind), "paths": {"unlearned": str(folder / kind)}}


def test_results_are_of_these_weights_or_they_are_refused(tmp_path):
    results = make_run(tmp_path)
    assert results["weights"] == {"adapter_model.safetensors": OF_A}
    check_judged_weights(results, tmp_path)
    check_weights({"scores": {}}, tmp_path / "adapter", tmp_path)  # an earlier version, which did not say
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(b"b")
    with pytest.raises(
        InputError, match=r"is about other weights than those in .*adapter: adapter_model.safetensors h"
    ):
        check_judged_weights(results, tmp_path)
    file.rename(file.with_name("adapter_model-00001-of-00002.safetensors"))
    with pytest.raises(InputError, match=r"adapter_model-00001-of-00002.safetensors was not judged. Put the judged"):
        check_judged_weights(results, tmp_path)
    (tmp_path / "adapter" / "adapter_model-00001-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"adapter_model.safetensors is missing"):
        check_weights(results, tmp_path / "adapter", tmp_path)


def test_a_run_that_moved_is_about_the_weights_beside_it(tmp_path):
    """Not about those that a later run wrote where it was."""
    results = make_run(tmp_path / "moved")
    results["paths"]["unlearned"] = str(tmp_path / "old" / "adapter")
    make_run(tmp_path / "old", content=b"b")
    check_judged_weights(results, tmp_path / "moved")
    judged_elsewhere = {"weights": {"adapter_model.safetensors": OF_A}, "paths": results["paths"]}
    (tmp_path / "judge").mkdir()
    with pytest.raises(InputError, match="has other contents"):
        check_judged_weights(judged_elsewhere, tmp_path / "judge")
    judged_elsewhere["weights"] = {"adapter_model.safetensors": OF_B}
    check_judged_weights(judged_elsewhere, tmp_path / "judge")


def test_a_run_has_one_set_of_weights(tmp_path):
    with pytest.raises(InputError, match="has neither adapter/ nor model/"):
        weights_folder(tmp_path)
    make_run(tmp_path, "model")
    assert weights_folder(tmp_path) == tmp_path / "model"
    make_run(tmp_path, "adapter")
    with pytest.raises(InputError, match=r"has both adapter/ and model/, of which results.json can have judged but"):
        weights_folder(tmp_path)


def test_an_adapter_is_its_configuration_too(tmp_path):
    """Whose scale decides what it says; what its base is called there does not."""
    make_run(tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text('{"lora_alpha": 16, "base_model_name_or_path": "/here", "revision": null}')
    results = {"weights": model_digests(tmp_path / "adapter")}
    path.write_text('{"base_model_name_or_path": "owner/base", "lora_alpha": 16}')
    check_judged_weights(results, tmp_path)
    earlier = {"weights": {"adapter_model.safetensors": OF_A}}
    path.write_text('{"lora_alpha": 32, "base_model_name_or_path": "/here"}')
    check_judged_weights(earlier, tmp_path)  # of a version that knew the weights alone
    with pytest.raises(InputError, match=r"other weights than those in .*: adapter_config.json has other contents"):
        check_judged_weights(results, tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"adapter_config.json is missing"):
        check_judged_weights(results, tmp_path)
