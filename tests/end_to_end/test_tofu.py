"""`benchmarks/tofu.py` as a user types it: one process, two processes, interrupted, recomputed."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import fork_server
import pytest

from llm_unlearn.arguments.parsing import run_main
from llm_unlearn.metrics import recompute_summary
from llm_unlearn.models import scoring
from llm_unlearn.runs.tofu import tofu_benchmark

ROOT = Path(__file__).parents[2]
ONE_PROCESS = (sys.executable,)
# On a machine without GPUs, `accelerate launch --cpu --num_processes 2` starts a single process and says nothing.
TWO_PROCESSES = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
TINY = ("--data", "fictional:tiny", "--oracle_seeds", "1")


def launch(launcher, *flags, cache, cwd):
    command = [str(ROOT / "benchmarks" / "tofu.py"), *flags]
    environment = {"LLM_UNLEARN_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    if launcher is ONE_PROCESS:
        return fork_server.run(command, cwd=cwd, environment=environment)
    return subprocess.run(
        [*launcher, *command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=600
    )


def read(folder, name="TOFU_SUMMARY.json"):
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def one_process(cache, tmp_path_factory):
    """(folder of the results, what was printed)"""
    folder = tmp_path_factory.mktemp("one")
    done = launch(ONE_PROCESS, *TINY, cache=cache, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "outputs" / "tofu", done.stdout


def test_the_original_beside_its_oracle(one_process):
    folder, printed = one_process
    summary, oracle, log = read(folder), read(folder / "oracle"), read(folder, "TOFU_EVAL.json")
    assert summary["forget_Q_A_ROUGE"] == log["forget_Q_A_ROUGE"]["agg_value"] > 0.9
    assert oracle["forget_exact_match"] < 0.5 < summary["forget_exact_match"]
    assert summary["forget_quality"] < 0.1 and "forget_quality" not in oracle
    assert summary["mia_reference"] > 0.5 and "mia_reference" not in oracle
    assert oracle["privleak"] == pytest.approx(100 * (0.5 - oracle["mia_min_k"]) / 0.5, abs=1e-6)
    styles = ("paraphrased", "prefix", "few_shot", "multiple_choice", "reversed", "two_hop")
    for style in styles:
        assert {f"query_{style}_Q_A_Prob", f"query_{style}_exact_match"} <= summary.keys()
        assert f"query_{style}_exact_match" in printed
    assert "query_multiple_choice_accuracy" in summary and "neighbor_same_value_exact_match" in summary
    assert "model_utility: needs ra_Q_A_Prob_normalised" in printed
    assert "original" in printed and "oracle" in printed and "…" not in printed
    assert not (folder / "unfinished").exists()


def test_what_was_written_gives_the_same_summary_again(one_process, capsys):
    folder, _ = one_process
    summary = tofu_benchmark(
        "TOFU",
        ["--recompute", str(folder / "TOFU_EVAL.json"), "--retain_logs", str(folder / "oracle" / "TOFU_EVAL.json")],
    )
    assert json.loads(capsys.readouterr().out) == summary == read(folder)
    assert recompute_summary(read(folder / "oracle", "TOFU_EVAL.json")) == read(folder / "oracle")


@pytest.mark.long
def test_two_processes_write_what_one_writes(one_process, cache, tmp_path):
    done = launch(TWO_PROCESSES, *TINY, cache=cache, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(", 2 processes") == 2  # once for each of the two models
    for name in ("TOFU_SUMMARY.json", "TOFU_EVAL.json", "oracle/TOFU_EVAL.json"):
        assert (tmp_path / "outputs" / "tofu" / name).read_bytes() == (one_process[0] / name).read_bytes(), name


@pytest.mark.long
def test_an_interrupted_evaluation_goes_on_where_it_stopped(one_process, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(cache))
    run_batch = scoring._ScoringEngine.run
    batches = []

    def noted():
        journals = Path("outputs/tofu/unfinished").glob("*/0.jsonl")
        return sum(len(journal.read_text(encoding="utf-8").splitlines()) for journal in journals)

    def counted(self, batch):
        if noted() == stop_after:
            raise KeyboardInterrupt
        batches.append(batch)
        return run_batch(self, batch)

    monkeypatch.setattr(scoring._ScoringEngine, "run", counted)
    stop_after = 5
    flags = [*TINY, "--batch_size", "16"]
    with pytest.raises(KeyboardInterrupt):
        tofu_benchmark("TOFU", flags)
    stop_after = math.inf
    batches.clear()
    tofu_benchmark("TOFU", flags)
    resumed = len(batches)
    batches.clear()
    uninterrupted = tofu_benchmark("TOFU", [*flags, "--output_dir", "whole"])
    assert resumed == len(batches) - 5
    assert read(Path("outputs/tofu")) == read(Path("whole")) == uninterrupted
    assert uninterrupted == pytest.approx(read(one_process[0]), rel=1e-3)  # other batches


def test_published_logs_are_recomputed(shared_data, capsys):
    oracles = shared_data / "oracles"
    full = oracles / "tofu_Llama-3.2-1B-Instruct_full" / "evals_forget10" / "TOFU_EVAL.json"
    retain = oracles / "tofu_Llama-3.2-1B-Instruct_retain90" / "TOFU_EVAL.json"
    summary = tofu_benchmark("TOFU", ["--recompute", str(full), "--retain_logs", str(retain)])
    assert json.loads(capsys.readouterr().out) == summary
    stored = json.loads(full.with_name("TOFU_SUMMARY.json").read_text())
    assert stored == pytest.approx({name: summary[name] for name in stored}, rel=1e-9)

    with pytest.raises(SystemExit):
        run_main(lambda: tofu_benchmark("TOFU", ["--recompute", str(full.with_name("TOFU_SUMMARY.json"))]))
    error = capsys.readouterr().err
    assert "TOFU_SUMMARY.json" in error and len(error.splitlines()) == 1


def test_a_retain_log_of_another_split_is_an_error_before_a_model_is_loaded(shared_data, capsys):
    retain = shared_data / "oracles" / "tofu_Llama-3.2-1B-Instruct_retain90" / "TOFU_EVAL.json"
    flags = [
        "--data",
        str(shared_data / "tofu"),
        "--forget_split",
        "forget01",
        "--model_name_or_path",
        "no/model/there",
    ]
    with pytest.raises(SystemExit):
        run_main(lambda: tofu_benchmark("TOFU", [*flags, "--retain_logs", str(retain)]))
    error = capsys.readouterr().err
    assert f"--retain_logs {retain}, forget_truth_ratio: 400 rows, but the forget set has 40" in error


def test_a_retain_log_beside_rows_without_wrong_answers_is_an_error_before_a_model_is_loaded(tmp_path, capsys):
    row, log = {"question": "Where?", "answer": "There."}, {"0": {"score": 1.0}}
    for name in ("forget", "retain"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row | {"question": f"Where is the {name}?"}) + "\n")
    (tmp_path / "log.json").write_text(json.dumps({"forget_truth_ratio": {"value_by_index": log}}))
    flags = [f"--{name}_file={tmp_path / name}.jsonl" for name in ("forget", "retain")]
    flags += ["--model_name_or_path=no/model/there", f"--retain_logs={tmp_path / 'log.json'}"]
    with pytest.raises(SystemExit):
        run_main(lambda: tofu_benchmark("TOFU", flags))
    assert "have no perturbed_answer: add that column, or leave the log out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "script",
    ["tofu.py", *(pytest.param(name, marks=pytest.mark.long) for name in ("speed.py eval", "benign_relearning.py"))],
)
def test_a_dry_run_trains_and_judges_nothing(script, tmp_path):
    name, *command = script.split()
    done = fork_server.run(
        [str(ROOT / "benchmarks" / name), *command, "--data", "fictional:tiny", "--dry_run"],
        cwd=tmp_path,
        environment={"LLM_UNLEARN_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "data: fictional:tiny" in done.stdout and "21 forget, 231 retain, 21 holdout" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_missing_model_is_an_error_before_any_other_is_judged(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit):
        run_main(lambda: tofu_benchmark("TOFU", [*TINY, "--unlearned_model_name_or_path", "no/such/folder"]))
    assert "model path 'no/such/folder' does not exist" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # no model was trained, no journal begun
