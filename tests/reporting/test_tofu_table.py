"""The table of a TOFU evaluation: a column per model, a row per metric, nothing cut off."""

import io

from rich.console import Console

from llm_unlearn.reporting.tofu_table import tofu_table


def rendered(summaries):
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(tofu_table(summaries))
    return console.export_text()


def row(text, name):
    return next(line.split()[1:] for line in text.splitlines() if line.split()[:1] == [name])


SUMMARIES = {
    "original": {
        "forget_quality": 3.9e-22,
        "forget_Q_A_Prob": 0.88,
        "model_utility": 0.6,
        "query_prefix_Q_A_Prob": 0.5,
    },
    "oracle": {"forget_Q_A_Prob": 0.1, "model_utility": 0.59, "a_new_metric": 0.0},
    "oracle_1": {"forget_Q_A_Prob": 0.2, "model_utility": 0.61, "a_new_metric": 0.0},
    "unlearned": {"forget_quality": 0.05, "forget_Q_A_Prob": 0.15, "model_utility": 0.55, "privleak": -99.45739},
}


def test_every_number_stands_in_the_column_of_its_model():
    text = rendered(SUMMARIES)
    assert row(text, "forget_quality") == ["3.9e-22", "-", "0.0500"]
    assert row(text, "forget_Q_A_Prob") == ["0.8800", "0.1500", "±0.0707", "0.1500"]
    assert row(text, "model_utility") == ["0.6000", "0.6000", "±0.0141", "0.5500"]
    assert row(text, "privleak") == ["-", "-", "-99.4574"]
    assert row(text, "a_new_metric") == ["-", "0.0000", "±0.0000", "-"]
    assert "oracle (of 2)" in text and "…" not in text


def test_metrics_stand_under_their_group_and_once():
    lines = [line.strip() for line in rendered(SUMMARIES).splitlines()]
    groups = ("forget set", "membership (AUC)", "utility", "the same facts, asked otherwise", "other")
    assert [line for line in lines if line in groups] == list(groups)
    assert lines.index("utility") + 1 == next(i for i, line in enumerate(lines) if line.startswith("model_utility"))
    assert sum(line.startswith("forget_Q_A_Prob ") for line in lines) == 1


def test_one_model_alone():
    text = rendered({"original": {"forget_Q_A_Prob": 0.88}})
    assert row(text, "forget_Q_A_Prob") == ["0.8800"] and "oracle" not in text
