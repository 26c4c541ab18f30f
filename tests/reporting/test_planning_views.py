"""What plans and sequences look like in the terminal and in pictures."""

import io

import pytest
from rich.console import Console

from llm_unlearn.reporting.planning_figures import plan_figure, sequence_figure
from llm_unlearn.reporting.planning_tables import (
    conflicts_table,
    forecast_lines,
    forecast_table,
    groups_table,
    request_words,
    sequence_table,
)


def shown(table):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table)
    return [" ".join(line.split()) for line in console.export_text().splitlines()]


def served(number, knowledge, probability, oracle=None, kept=0.98):
    return {
        **{"request": number, "rows": 21, "steps": 35, "seconds": 61.2, "judgment": "still known"},
        **{"knowledge": knowledge, "probability": probability, "oracle_probability": oracle},
        **{"kept": kept, "lowest_ability": "retain_reversed"},
    }


REQUESTS = [served(1, [None], [0.4]), served(2, [0.5, 0.75], [0.42, 0.9]), served(3, [0.5, 0.7, 0.1], [0.4, 0.6, 0.8])]


def test_requests_in_words_and_as_a_table():
    assert request_words(REQUESTS[0]) == (
        "request 1: 21 rows, 35 steps, still known; answer probability 0.40; keeps 98 % (retained facts, in reverse)"
    )
    assert "answer probability 0.80, of earlier requests 0.50; keeps" in request_words(REQUESTS[2])
    lines = shown(sequence_table({"requests": REQUESTS}))
    assert any(line.startswith("1 21 35 \N{EN DASH} \N{EN DASH} 0.40 \N{EN DASH} 98 % 61") for line in lines)
    assert any(line.startswith("3 21 35 0.10 0.60 0.80 0.50 98 % 61 still known") for line in lines)


@pytest.mark.parametrize("knows", [True, False])
def test_a_figure_of_requests(knows, tmp_path):
    requests = REQUESTS
    if not knows:
        requests = [
            served(1, [None], [0.4], [0.3], kept=None),
            served(2, [None] * 2, [0.4, 0.9], [0.3, 0.2], kept=None),
        ]
    left, right = sequence_figure({"requests": requests}, tmp_path / "sequence.png").axes
    assert left.get_title() == f"{'knowledge' if knows else 'answer probability'} that is left"
    lines = {line.get_label(): list(line.get_ydata()) for line in left.lines}
    if knows:
        assert lines["the request just served"] == [0.75, 0.1]
        assert lines["mean of all earlier requests"] == [0.5, 0.6] and lines["ignorance"] == [0.5, 0.5]
        assert list(right.lines[0].get_ydata()) == [0.98] * 3
    else:
        assert lines["the request just served"] == [0.4, 0.9] and lines["mean of all earlier requests"] == [0.4]
        assert lines["oracle, the same request"] == [0.3, 0.2]


def test_a_plan_without_scores_has_no_figure(tmp_path):
    assert plan_figure({"units": []}, tmp_path / "plan.png") is None


def test_tables_of_a_plan():
    units = [
        {"unit": ["person", name], "rows": [number], "memorization": number / 4, "memorization_group": group}
        for number, (name, group) in enumerate([("Ann", "low"), ("Ben", "low"), ("Cal", "middle"), ("Dora", "high")])
    ]
    found = {"units": units, "groups": {"memorization": {"low": [0, 1], "middle": [2], "high": [3]}}}
    assert "low 2 2 0.000 0.125 0.250" in shown(groups_table(found, "memorization"))
    conflict = {"kind": "nearly the same question", "forget_row": 3, "other_set": "retain", "differs": ["case"]}
    conflicts = [{**conflict, "other_row": number} for number in range(21)]
    lines = shown(conflicts_table({"conflicts": conflicts}))
    assert "conflicts: 21 nearly the same question; the first 20, all in plan.json" in " ".join(lines)
    assert "3 retain 19 nearly the same question case" in lines and not any(" 20 nearly" in line for line in lines)


def test_a_forecast_says_how_wrong_it_was():
    errors = {"median of all runs": {"mean": 0.693147, "median": 0.5}, "other": {"mean": 0.405465, "median": 0.4}}
    fit = {"errors": errors, "chosen": "other", "gain": {"mean": 0.3, "interval": [0.1, 0.5]}, "is_better": True}
    kept = fit | {"chosen": "median of all runs", "gain": None, "is_better": False}
    both = {"value": 158.4, "interval": [70.2, 357.6]}, {"value": 0.9, "interval": [0.75, 1.0]}
    given = {"learning_rate": 3e-4, "forget_weight": 4.0, "runs": 4, "reached": 3, "why_not": None}
    methods = [{"name": "npo", "steps": both[0], "kept": both[1], **given}]
    methods += [{"name": "rewind", "steps": None, "kept": None, **given, "why_not": "never recorded"}]
    found = {"why_not": None, "methods": methods, "fit": {"steps": fit, "kept": kept}, "runs": 67}
    lines = shown(forecast_table(found))
    assert "npo learning_rate 0.0003, forget_weight 4 158 [70, 358] 0.90 [0.75, 1.00] 3 of 4" in lines
    assert any(line.startswith("rewind learning_rate 0.0003, forget_weight 4 none: never recorded") for line in lines)
    steps, price, limits = forecast_lines(found)
    assert "wrong by a factor of 1.50 on average; the median of all runs by a factor of 2.00" in steps
    assert price.endswith("Nothing shows that this is better than that median") and "better" not in steps
    assert "lower bound" in limits
    assert forecast_lines({"why_not": "other world"}) == ["no forecast of steps and price: other world"]
