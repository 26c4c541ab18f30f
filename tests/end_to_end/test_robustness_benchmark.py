"""Methods against attacks through the command line, in this process: chosen rates, runs, table, and nothing twice."""

import json

import pytest

from llm_unlearn.cli.report import main as report
from llm_unlearn.errors import InputError
from llm_unlearn.runs.benchmarking import robustness_benchmark
from llm_unlearn.runs.robustness import Robustness
from llm_unlearn.training.trainer import UnlearnTrainer

FLAGS = ("--data=fictional:tiny", "--oracle_seeds=2", "--attack_seeds=0", "--attack_steps=2", "--num_train_epochs=2")
FLAGS += ("--counterfactual=false", "--attack_retain_rows=10", "--stop_at_forget_probability=1")
FLAGS += ("--stop_at_forget_exact_match=1", "--forget_check_steps=1", "--report_to=none", "--disable_tqdm")


@pytest.fixture
def trained(monkeypatch):
    """The output folders of all trainings."""
    found, train = [], UnlearnTrainer.train

    def noted(self, **keywords):
        found.append(self.args.output_dir)
        return train(self, **keywords)

    monkeypatch.setattr(UnlearnTrainer, "train", noted)
    return found


@pytest.mark.long
def test_methods_are_matched_judged_and_never_trained_twice(cache, tmp_path, monkeypatch, trained, capsys):
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(cache))
    flags = [*FLAGS, f"--output_dir={tmp_path}", "--methods", "npo", "ssiuu", "npo_equal_steps", "--seeds", "20"]
    flags += ["--learning_rates", "1e-3", "3e-3", "--attacks", "adversarial_reinjection"]
    found = robustness_benchmark("", flags)
    printed = capsys.readouterr().out
    assert "npo_equal_steps" in printed and "…" not in printed.split("erased, or only hidden?")[1]
    assert len(trained) == len(set(trained)) == 4 + 3  # NPO's rates serve its control, too
    for name, chosen in found["chosen"].items():
        tried = {one["learning_rate"]: one for one in chosen["tried"]}
        assert chosen["learning_rate"] in tried and {1e-3, 3e-3} <= set(tried), name
    assert [(run["method"], run["seed"]) for run in found["runs"]] == [
        (method, 20) for method in ("npo", "ssiuu", "npo_equal_steps")
    ]
    for run in found["runs"]:
        assert run["learning_rate"] == found["chosen"][run["method"]]["learning_rate"]
        assert run["scores"]["forget_probability"] <= 1 and run["reached"]
        folder = tmp_path / "runs" / f"{run['method']}-seed{run['seed']}"
        results = json.loads((folder / "results.json").read_text())
        assert results["weights"].keys() == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }  # or no push takes it
        assert set(results["scores"]) == {"original", "oracle", "oracle_1", "unlearned"}
        assert json.loads((folder / "verdict.json").read_text())["verdict"] == run["verdict"]
        assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    before = (tmp_path / "summary.json").read_bytes()
    trained.clear()
    (tmp_path / "runs" / "npo-seed20" / "run.json").unlink()  # as if it had been interrupted there
    assert robustness_benchmark("", flags)["runs"] != [] and len(trained) == 1
    again, first = (json.loads(text)["methods"]["npo"] for text in ((tmp_path / "summary.json").read_bytes(), before))
    assert {name: again[name] for name in again if name != "seconds"} == {
        name: first[name] for name in first if name != "seconds"
    }
    assert len(report([str(tmp_path)])) == 3  # all pages, and the table


@pytest.mark.long
def test_what_cannot_be_compared_is_refused_before_anything_runs(cache, tmp_path, monkeypatch, trained):
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(cache))
    for flags, message in (
        (["--attacks", "prompting"], "rates are chosen by adversarial_reinjection; add it"),
        (["--reinjection_pool=forgotten"], "methods need the same: use all"),
        (["--seeds", "100", "--tuning_seeds", "100"], "100 is a tuning seed, too"),
        (["--methods", "npo:beta=-1"], "methods: npo:beta=-1: beta=-1.0 must be above 0"),
    ):
        with pytest.raises(InputError, match=message):
            robustness_benchmark("", [*FLAGS, f"--output_dir={tmp_path}", *flags])
    assert trained == []


def test_by_default_what_cannot_be_trained_here_is_left_out_and_named(cache, tmp_path, monkeypatch, caplog):
    """Rewinding refuses the general loss that all methods share; named, it is an error instead."""
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(cache))
    seen = []
    monkeypatch.setattr(Robustness, "run", lambda self: seen.append(self.arguments.methods) or 1 / 0)
    flags = ["--data", "fictional:tiny", "--oracle_seeds", "1", "--output_dir", str(tmp_path)]
    with pytest.raises(ZeroDivisionError):
        robustness_benchmark("", flags)
    assert {"npo", "pdu", "relabel"} <= set(seen[0]) and "rewind" not in seen[0]
    assert "methods: rewind is left out: general_loss='kl'" in caplog.text
    with pytest.raises(InputError, match="methods: rewind: general_loss='kl' would compare with the checkpoint"):
        robustness_benchmark("", [*flags, "--methods", "rewind"])
