"""Two processes are one process that accumulates two batches: same adapter, same log, on every process."""

import json
from pathlib import Path

import fork_server
import pytest
import torch
from builders import largest_difference, tiny_model
from peft import PeftModel
from transformers import AutoModelForCausalLM
from two_process_runs import FULL, RESUMED, RUNS, SHARDED, run_all

from llm_unlearn.methods import load_methods

pytestmark = pytest.mark.slow


def run_two_processes(folder, *arguments):
    finished = fork_server.run(
        [str(Path(__file__).with_name("two_process_runs.py")), str(folder), *arguments],
        cwd=folder,
        environment={"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        processes=2,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]


def read_reports(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """(folder, reports by process) of the run with two processes and of the run with one."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    run_two_processes(two)
    run_all(one)
    return {folder: read_reports(folder) for folder in (two, one)}


@pytest.fixture(scope="module", params=[pytest.param("fsdp2", marks=pytest.mark.long), "zero2", "zero3"])
def sharded(request, tmp_path_factory):
    """(folder, reports by process) of the run with FSDP2 or DeepSpeed on two processes."""
    if request.param != "fsdp2":
        pytest.importorskip("deepspeed")
    folder = tmp_path_factory.mktemp("sharded")
    run_two_processes(folder, request.param)
    return folder, read_reports(folder)


def saved_weights(folder, name, which="saved") -> dict[str, torch.Tensor]:
    """Of the model as anyone loads it, without this package."""
    if name in FULL:
        return AutoModelForCausalLM.from_pretrained(folder / which / name).state_dict()
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    return PeftModel.from_pretrained(base, folder / which / name).state_dict()


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_accumulation(name, reports):
    (two, (first, second)), (one, (alone,)) = reports.items()
    first, second, alone = first[name], second[name], alone[name]
    assert first["world_size"] == second["world_size"] == 2 and alone["world_size"] == 1
    assert first["sums"] == second["sums"]  # to the last bit on both processes
    assert first["steps"] == second["steps"] == alone["steps"] > 0
    assert first["stopped_by"] == second["stopped_by"] and first["diverged"] == alone["diverged"]
    for key in ("eval_forget_probability", "eval_forget_exact_match"):
        assert (
            first["evaluation"][key] == second["evaluation"][key] == pytest.approx(alone["evaluation"][key], rel=1e-4)
        )

    trained = [saved_weights(folder, name) for folder in (two, one)]
    assert largest_difference(*trained) < 1e-5
    if name in FULL:
        assert largest_difference(trained[0], tiny_model().state_dict()) > 1e-4
    else:
        assert max(float(value.abs().max()) for key, value in trained[0].items() if "lora_B" in key) > 1e-4

    assert len(first["log"]) == len(alone["log"]) > 0
    for together, accumulated in zip(first["log"], alone["log"], strict=True):
        assert together.keys() == accumulated.keys()
        for key in together.keys() - {"epoch"}:  # which the Trainer counts in micro-batches
            assert together[key] == pytest.approx(accumulated[key], rel=1e-4, abs=1e-6), key


def test_every_method_is_among_the_runs():
    assert {trainer.method_name for trainer, *_ in RUNS.values()} >= set(load_methods())


def test_the_run_that_can_stop_early_does(reports):
    first = next(iter(reports.values()))[0]["scalar"]
    assert first["stopped_by"] and first["steps"] < 6


def test_all_processes_end_with_the_best_weights(reports):
    """Not the first process alone."""
    for report in next(iter(reports.values())):
        assert report["best"]["best"] == 1 and report["best"]["steps"] == 6
        evaluations = [line["eval_forget_probability"] for line in report["best"]["evaluations"]]
        assert report["best"]["evaluation"]["eval_forget_probability"] == evaluations[0] > max(evaluations[1:])


def test_a_run_that_diverges_ends_with_the_weights_before_that_step(reports):
    first, second = next(iter(reports.values()))
    assert first["diverged"]["diverged"] == second["diverged"]["diverged"]
    assert "step 4: forget answers have a negative log-likelihood of 4.91" in first["diverged"]["diverged"]
    assert first["diverged"]["steps"] == 3


def test_data_parallelism_looks_for_unused_parameters_where_there_are(reports):
    """Where there are none, PyTorch warns; where it does not look, a second step with them fails."""
    for report in next(iter(reports.values())):
        assert {name: run["looked_for_unused_parameters"] for name, run in report.items()} == {
            name: name == "unused" for name in RUNS
        }


@pytest.mark.parametrize("name", RESUMED)
def test_resuming_in_mid_epoch_equals_the_uninterrupted_run_bit_for_bit(name, reports):
    for folder, by_process in reports.items():
        assert largest_difference(*(saved_weights(folder, name, which) for which in ("saved", "resumed"))) == 0.0
        for report in by_process:
            assert report[name]["resumed"] == {"steps": 3, "log": report[name]["log"]}


@pytest.mark.parametrize("name", SHARDED)
def test_sharding_equals_plain_data_parallelism(name, sharded, reports):
    """The same losses, step for step, the same end, and the same weights, whole when saved."""
    (folder, (first, second)), (two, (plain, _)) = sharded, next(iter(reports.items()))
    first, second, plain = first[name], second[name], plain[name]
    assert first["world_size"] == second["world_size"] == 2
    for key in ("steps", "stopped_by", "diverged", "best"):
        assert first[key] == second[key] == plain[key], key
    for together, alone in zip(first["log"], plain["log"], strict=True):
        assert together == pytest.approx(alone, rel=1e-4, abs=1e-6)
    assert first["evaluation"] == second["evaluation"] == pytest.approx(plain["evaluation"], rel=1e-4)
    assert largest_difference(*(saved_weights(where, name) for where in (folder, two))) < 1e-6


@pytest.mark.parametrize("name", [name for name in RESUMED if name in SHARDED])
def test_sharded_runs_resume_bit_for_bit(name, sharded):
    folder, reports = sharded
    assert largest_difference(*(saved_weights(folder, name, which) for which in ("saved", "resumed"))) == 0.0
    for report in reports:
        assert report[name]["resumed"] == {"steps": 3, "log": report[name]["log"]}
