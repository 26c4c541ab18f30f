"""What a search for settings found, as people read it."""

import csv
import io

from rich.console import Console

from llm_unlearn.reporting.tuning_table import print_tuning, trial_words, tuning_csv, tuning_table

RUN = {"seed": 100, "steps": 40, "seconds": 3.0, "stopped_by": "forget exact match 0.02", "diverged": None}
BEST = {"name": "npo:beta=0.5", "setting": {"learning_rate": 0.001, "beta": 0.5}, "diverged": False, "reached": True}
BEST |= {"steps": 40.0, "seconds": 3.0, "style": "reversed", "value": 0.38, "excess": 0.12, "kept": 0.934}
BEST |= {"lowest_ability": "retain_reversed", "runs": [RUN | {"scores": {"forget_probability": 0.4, "other": 1.0}}]}
GONE = {"name": "npo:beta=9", "setting": {"beta": 9}, "diverged": True, "reached": False, "steps": 3.0, "seconds": 1.0}
GONE |= dict.fromkeys(("style", "value", "excess", "kept", "lowest_ability"))
GONE |= {"runs": [RUN | {"diverged": "the loss is NaN", "stopped_by": None, "steps": 3}]}
FOUND = {
    "references": {"score": "knowledge"},
    "least_kept": 0.9,
    "left_out": {"rewind": "it needs a checkpoint"},
    "methods": {
        "npo": {"settings": 27, "trials": [GONE, BEST], "best": 1, "why": "nearest to ignorance"},
        "wga": {"settings": 1, "trials": [GONE], "best": None, "why": "every trial diverged"},
    },
}


def test_a_trial_in_a_line():
    words = "stopped after 40 steps, knowledge 0.38 (in reverse), 0.12 from ignorance, keeps 93 % "
    words += "(retained facts, in reverse)"
    assert trial_words(BEST, "knowledge") == words
    assert trial_words(BEST | {"reached": False}, "knowledge").startswith(
        "did not reach the stopping score after 40 steps, "
    )
    assert trial_words(GONE, "knowledge") == "diverged after 3 steps"


def test_a_row_for_each_method_with_its_best_trial():
    columns = {column.header: [*column.cells] for column in tuning_table(FOUND).columns}
    assert columns["method"] == ["npo", "wga"] and columns["trials"] == ["2 of 27", "1 of 1"]
    assert columns["best setting"] == ["learning_rate 0.001\nbeta 0.5", "every trial diverged"]
    assert columns["knowledge"][0] == "0.38 (in reverse)" and columns["from ignorance"][0] == "0.12"
    assert columns["kept"][0] == "93 % (retained facts, in\nreverse)"
    (kept, *_) = [*tuning_table(FOUND | {"least_kept": 0.95}).columns[5].cells]
    assert kept == "93 % (retained facts, in\nreverse)\n[bold]no trial kept 95 %[/]"
    assert (columns["steps"][0], columns["reached"][0]) == ("40", "yes")


def test_what_is_printed_ends_with_what_the_comparison_takes(tmp_path, capsys):
    print_tuning(FOUND, tmp_path)
    printed = capsys.readouterr().out
    assert "npo: 2 settings were tried, 1 diverged; nearest to ignorance\n" in printed
    assert "wga: all 1 settings that there are were tried, 1 diverged; every trial diverged\n" in printed
    assert "left out: rewind: it needs a checkpoint\n" in printed
    assert "on other seeds than 100:\n  npo:beta=0.5\n\nllm-unlearn run robustness --methods" in printed
    assert f"--methods $(cat {tmp_path}/best_methods.txt)" in printed


def test_every_training_is_a_row_of_the_csv():
    gone, best, _ = csv.DictReader(io.StringIO(tuning_csv(FOUND)))
    assert (gone["diverged"], gone["trial_kept"], gone["best"], gone["trial"]) == ("the loss is NaN", "", "False", "0")
    assert (best["trial_kept"], best["forget_probability"], best["best"], best["seed"]) == (
        "0.934",
        "0.4",
        "True",
        "100",
    )
    assert best["score"] == "knowledge" and "other" not in best


def test_the_table_fits_an_ordinary_terminal():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tuning_table(FOUND))
    assert max(map(len, console.export_text().splitlines())) <= 100
