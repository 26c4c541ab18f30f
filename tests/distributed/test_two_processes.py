"""Two processes are one process that accumulates two batches: same adapter, same log, on every process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import largest_difference, tiny_model, trainable
from safetensors.torch import load_file
from two_process_runs import RUNS, SHARDED, run_all

pytestmark = pytest.mark.slow


def run_two_processes(folder, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    finished = subprocess.run(
        [*command, str(Path(__file__).with_name("two_process_runs.py")), str(folder), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
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


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """(folder, reports by process) of the run with FSDP2 on two processes."""
    folder = tmp_path_factory.mktemp("sharded")
    run_two_processes(folder, "fsdp2")
    return folder, read_reports(folder)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_accumulation(name, reports):
    (two, (first, second)), (one, (alone,)) = reports.items()
    first, second, alone = first[name], second[name], alone[name]
    assert first["world_size"] == second["world_size"] == 2 and alone["world_size"] == 1
    assert first["sums"] == second["sums"]  # to the last bit on both processes
    assert first["steps"] == second["steps"] == alone["steps"] > 0
    assert first["stopped_by"] == second["stopped_by"]
    for key in ("eval_forget_probability", "eval_forget_exact_match"):
        assert (
            first["evaluation"][key] == second["evaluation"][key] == pytest.approx(alone["evaluation"][key], rel=1e-4)
        )

    trained = [load_file(folder / f"{name}.safetensors") for folder in (two, one)]
    assert largest_difference(*trained) < 1e-5
    if name == "full":
        assert largest_difference(trained[0], trainable(tiny_model())) > 1e-4
    else:
        assert max(float(value.abs().max()) for key, value in trained[0].items() if "lora_B" in key) > 1e-4

    assert len(first["log"]) == len(alone["log"]) > 0
    for together, accumulated in zip(first["log"], alone["log"], strict=True):
        assert together.keys() == accumulated.keys()
        for key in together.keys() - {"epoch"}:  # which the Trainer counts in micro-batches
            assert together[key] == pytest.approx(accumulated[key], rel=1e-4, abs=1e-6), key


def test_the_run_that_can_stop_early_does(reports):
    first = next(iter(reports.values()))[0]["scalar"]
    assert first["stopped_by"] and first["steps"] < 6


@pytest.mark.parametrize("name", ["npo", "published", "sam"])
def test_resuming_in_mid_epoch_equals_the_uninterrupted_run_bit_for_bit(name, reports):
    for by_process in reports.values():
        for report in by_process:
            run = report[name]
            before, after = run["resumed"]["differences"]
            assert before > 1e-3 and after == 0.0
            assert run["resumed"]["log"] == run["log"]


@pytest.mark.parametrize("name", SHARDED)
def test_fsdp2_equals_plain_data_parallelism(name, sharded, reports):
    """The same losses, step for step, and the same weights, whole when saved."""
    (folder, (first, second)), (two, (plain, _)) = sharded, next(iter(reports.items()))
    first, second, plain = first[name], second[name], plain[name]
    assert first["world_size"] == second["world_size"] == 2
    assert first["steps"] == second["steps"] == plain["steps"] and first["stopped_by"] == plain["stopped_by"]
    for together, alone in zip(first["log"], plain["log"], strict=True):
        assert together == pytest.approx(alone, rel=1e-4, abs=1e-6)
    assert first["evaluation"] == second["evaluation"] == pytest.approx(plain["evaluation"], rel=1e-4)
    assert largest_difference(*(load_file(where / f"{name}.safetensors") for where in (folder, two))) < 1e-5
    saved = "model.safetensors" if name == "full" else "adapter_model.safetensors"
    assert largest_difference(*(load_file(where / "saved" / name / saved) for where in (folder, two))) < 1e-5


def test_fsdp2_resumes_bit_for_bit(sharded):
    _, reports = sharded
    before, after = reports[0]["npo"]["resumed"]["differences"]
    assert before > 1e-3 and after == 0.0
    assert all(report["npo"]["resumed"]["log"] == report["npo"]["log"] for report in reports)
