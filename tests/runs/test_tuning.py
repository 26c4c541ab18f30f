"""The search for settings as a command: what it tries, keeps, writes and refuses."""

import csv
import json
from statistics import fmean
from types import SimpleNamespace

import pytest
from builders import qa_rows

from llm_unlearn.data.made_up import with_made_up_answers
from llm_unlearn.errors import DivergenceError, InputError
from llm_unlearn.runs.compared_methods import method_of
from llm_unlearn.runs.robustness import RobustnessArguments
from llm_unlearn.runs.sharing import share
from llm_unlearn.runs.tuning import check_measurable, tune
from llm_unlearn.runs.tuning_plan import TuningArguments
from llm_unlearn.training.trainer import UnlearnTrainer

# Any model has reached these scores: each run is a step long.
FLAGS = ("--data=fictional:tiny", "--oracle_seeds=1", "--num_train_epochs=1", "--stop_at_forget_probability=1")
FLAGS += (
    "--stop_at_forget_exact_match=1",
    "--forget_check_steps=1",
    "--report_to=none",
    "--disable_tqdm",
    "--trials=2",
)


@pytest.fixture
def trained(monkeypatch):
    """The output folders of all trainings; at the third of them this process is interrupted, where `stop` says so."""
    found, train = SimpleNamespace(folders=[], stop=False), UnlearnTrainer.train

    def noted(self, *arguments, **keywords):
        if found.stop and len(found.folders) == 2:
            raise KeyboardInterrupt
        found.folders.append(self.args.output_dir)
        if self.args.learning_rate == 1.0:
            raise DivergenceError("the loss is NaN")
        return train(self, *arguments, **keywords)

    monkeypatch.setattr(UnlearnTrainer, "train", noted)
    return found


@pytest.mark.long  # the dry run, the draws and the choice are tested on their own
def test_a_search_that_was_killed_goes_on_and_names_the_best(cache, tmp_path, monkeypatch, trained, capsys):
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(cache))
    out = tmp_path / "out"
    flags = [*FLAGS, f"--output_dir={out}", "--methods", "npo", "undial:learning_rate=1", "--least_kept=0"]
    trained.stop = True
    with pytest.raises(KeyboardInterrupt):
        tune("", flags)
    assert len(trained.folders) == 2 and not (out / "tune.json").exists()
    trained.stop = False
    found = tune("", flags)
    assert len(trained.folders) == len(set(trained.folders)) == 4  # nothing twice
    printed = capsys.readouterr().out
    assert "4 of 4: undial" in printed and "every trial diverged" in printed
    assert json.loads((out / "tune.json").read_text()) == found and found["left_out"] == {}

    npo, undial = found["methods"].values()
    first, second = npo["trials"]
    assert first["setting"] == {"learning_rate": 3e-4, "forget_weight": 1.0, "beta": 0.5}
    assert first["name"] == "npo:learning_rate=0.0003,forget_weight=1.0,beta=0.5" != second["name"]
    assert [one["runs"][0]["seed"] for one in npo["trials"]] == [100, 100] and npo["settings"] == 27
    assert npo["best"] == min((0, 1), key=lambda number: npo["trials"][number]["excess"])
    score = found["references"]["score"]
    assert score == "probability"  # of the one person whom this world forgets no two facts are of a kind
    for trial in npo["trials"]:
        style = trial["style"]
        assert trial["value"] == trial["runs"][0]["by_style"][score][style]
        ignorant, own = found["references"]["ignorance"], trial["runs"][0]["by_style"][score]
        assert trial["excess"] == pytest.approx(fmean(abs(own[one] - ignorant[one]) for one in ignorant))
        assert abs(trial["value"] - ignorant[style]) == max(abs(own[one] - ignorant[one]) for one in ignorant)
        assert trial["reached"] and 0.5 < trial["kept"] < 1.5 and trial["steps"] >= 1
    assert undial["best"] is None and all(one["diverged"] for one in undial["trials"])

    best = npo["trials"][npo["best"]]["name"]
    assert (out / "best_methods.txt").read_text() == best + "\n" and best in printed
    assert method_of(best).fixed == npo["trials"][npo["best"]]["setting"]
    assert RobustnessArguments(methods=[best]).methods == [best]
    rows = [*csv.DictReader((out / "tune.csv").read_text().splitlines())]
    assert [(row["method"], row["trial"], row["seed"], row["best"]) for row in rows] == [
        ("npo", "0", "100", str(npo["best"] == 0)),
        ("npo", "1", "100", str(npo["best"] == 1)),
        ("undial:learning_rate=1", "0", "100", "False"),
        ("undial:learning_rate=1", "1", "100", "False"),
    ]
    assert float(rows[0]["trial_excess"]) == first["excess"] and rows[2]["diverged"] == "the loss is NaN"

    assert tune("", [*flags, "--trials=3"])["methods"]["npo"]["trials"][:2] == npo["trials"]
    assert len(trained.folders) == 6  # one more of each


def test_a_dry_run_shows_spaces_and_trials_and_what_cannot_be_trained(tmp_path, trained, capsys):
    assert tune("", [*FLAGS, f"--output_dir={tmp_path}", "--dry_run", "--trials=30"]) == {}
    printed = capsys.readouterr().out
    assert "npo: 27 settings, all of which are tried\n  learning_rate: 0.0003, 0.001, 0.003\n" in printed
    assert "    npo:learning_rate=0.0003,forget_weight=1.0,beta=0.5 (its defaults)\n" in printed
    assert "gradient_ascent: 3 settings, all of which are tried\n" in printed
    assert "left out: rewind: general_loss='kl' would compare with the checkpoint" in printed
    assert "npo_equal_steps" not in printed and trained.folders == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ["ascent"]}, "methods: 'ascent' is unknown; choose from"),
        ({"methods": ["npo:bet=1"]}, "unknown field bet in --methods npo:bet=1"),
        (
            {"methods": ["npo", "npo_equal_steps"]},
            "npo_equal_steps is a control, whose rate follows the steps of ssiuu",
        ),
        ({"methods": []}, r"methods=\[\] must be one or more"),
        ({"methods": ["npo", "npo"]}, "each of them once"),
        ({"trials": 0}, "trials=0 must be 1 or more"),
        ({"tuning_seeds": []}, r"tuning_seeds=\[\] must be one or more"),
        ({"tuning_seeds": [-1]}, "tuning_seeds=-1 must be 0 or more"),
        ({"learning_rates": []}, r"learning_rates=\[\] must be one or more"),
        ({"learning_rates": [0.0]}, "learning_rates=0.0 must be above 0"),
        ({"forget_weight_factors": [1.0, 1.0]}, "each of them once"),
        ({"least_kept": 1.5}, "least_kept=1.5 must be 0 or more, and 1 at most"),
    ],
)
def test_arguments_that_make_no_search(values, message):
    with pytest.raises(ValueError, match=message):
        TuningArguments(**values)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stop_at_forget_probability=null", "--stop_at_forget_exact_match=null"], "stop at the same forget score"),
        (["--load_in_4bit"], "load_in_4bit: methods are compared on whole base weights"),
        (["--save_strategy=epoch"], "save_strategy: trials keep no checkpoints; leave it out"),
        (["--methods", "npo:beta=-1"], "methods: npo:beta=-1: beta=-1.0 must be above 0"),
        (["--methods", "rewind"], "methods: rewind: general_loss='kl' would compare with the checkpoint"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_anything_runs(flags, message, tmp_path):
    with pytest.raises(InputError, match=message):
        tune("", [*FLAGS, f"--output_dir={tmp_path}", "--methods", "npo", "--dry_run", *flags])


def test_rows_by_which_no_trial_could_be_told_from_another_are_refused():
    def examination(kinds, retain):
        forget = with_made_up_answers(qa_rows(4).add_column("kind", kinds), "kind")
        return SimpleNamespace(judged=SimpleNamespace(sets={"forget": forget}), data=SimpleNamespace(retain=retain))

    check_measurable(examination(["place", "food", "place", "food"], qa_rows(4, 20)), [])
    check_measurable(examination(["a", "b", "c", "d"], qa_rows(4, 20)), ["oracle"])
    with pytest.raises(InputError, match="several forgotten facts must be of one kind: give the rows a column 'kind'"):
        check_measurable(examination(["a", "b", "c", "d"], qa_rows(4, 20)), [])
    with pytest.raises(InputError, match="needs rows to keep: give --retain_file"):
        check_measurable(examination(["place", "food", "place", "food"], None), [])


def test_instructions_are_judged_though_nothing_is_attacked():
    arguments = TuningArguments(counterfactual_group_by="topic", generation_config="model").attack_arguments()
    assert arguments.attacks == ["benign_relearning"] and not arguments.counterfactual
    assert (arguments.counterfactual_group_by, arguments.generation_config) == ("topic", "model")


def test_processes_leave_each_other_what_they_are_at():
    asked, finished = [], []

    def task(name):
        def outcome(wait):
            asked.append((name, wait))
            return None if name == ("first",) and not wait else {"of": name}  # another process is at the first one

        return outcome

    names = [("first",), ("second",)]
    done = share({name: task(name) for name in names}, finished=lambda name, outcome: finished.append(name))
    assert done == {name: {"of": name} for name in names}
    assert asked == [(("first",), False), (("second",), False), (("first",), True)]
    assert finished == [("second",), ("first",)]
