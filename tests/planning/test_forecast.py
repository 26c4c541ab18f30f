"""The forecast of steps and price: read from records, compared by runs left out, and honest where it says nothing."""

import json
import math
import runpy
from pathlib import Path

import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.planning.forecast import (
    ALL,
    METHOD,
    SETTINGS,
    RecordedRun,
    entry_of,
    fitted,
    forecast,
    is_better,
    read_fitted,
    trials_of,
)

ROOT = Path(__file__).parents[2]
CSV = """method,name,stopped_by,diverged,steps,trial_kept
npo,"npo:learning_rate=0.0003,forget_weight=4.0,beta=0.1","forget exact_match 0.02 <= 0.03",,70,0.875
npo,"npo:learning_rate=0.01",,step 3: NaN,3,
task_vector,"task_vector:learning_rate=0.001,scaling_coefficient=5.0",,,160,0.5
"""


def runs(**steps):
    """Of each method, runs with these steps, all at the same settings."""
    return [
        RecordedRun(name, 3e-4, 1.0, count, True, 0.5 if name == "slow" else 0.9)
        for name, counts in steps.items()
        for count in counts
    ]


def test_trials_and_entries_are_read():
    npo = RecordedRun("npo", 0.0003, 4.0, 70.0, True, 0.875)
    assert trials_of(CSV) == [npo, RecordedRun("task_vector", 0.001, 1.0, 160.0, False, 0.5)]
    with pytest.raises(InputError, match="line 2 is no trial"):
        trials_of("method,steps\nnpo,3\n")
    settings = {"retain_weight": 60.0, "general_weight": 100.0, "learning_rate": 0.0003}
    entry = {"method": "npo", "world": "fictional (forget10)", "setting": "LoRA of rank 64", "settings": settings}
    entry |= {"steps": 282.0, "reached": 4.0, "seeds": [50, 51, 52, 53, 54], "lowest": {"share": 0.93}}
    assert entry_of(entry) == RecordedRun("npo", 0.0003, 1.0, 282.0, False, 0.93)  # one of five did not reach
    for changed in (
        {"world": "TOFU (forget10)"},
        {"setting": "full fine-tuning"},
        {"settings": settings | {"general_weight": 0.0}},
        {"settings": settings | {"stop_at_forget_probability": 0.0001}},
    ):
        assert entry_of(entry | changed) is None


def test_methods_that_differ_are_told_apart():
    fit = fitted(runs(slow=[200, 200, 200], fast=[20, 20, 20], middle=[60, 60, 60]))
    # left out, a run of a method has two others of it, so its median is without error; the median of the other eight
    # is 60 for six of them, and (60 * 60) ** 0.5 for the rest
    assert fit["steps"]["chosen"] == METHOD
    assert fit["steps"]["errors"][METHOD] == {"mean": 0, "median": 0}
    expected = (3 * math.log(200 / 60) + 3 * math.log(60 / 20)) / 9
    assert fit["steps"]["errors"][ALL]["mean"] == pytest.approx(expected)
    assert fit["steps"]["gain"]["mean"] == pytest.approx(expected)
    told = forecast(fit, "slow", 3e-4, 1.0)
    assert told["steps"]["value"] == pytest.approx(200) and told["kept"]["value"] == pytest.approx(0.5)
    assert told["steps"]["interval"] == pytest.approx([200, 200]) and (told["runs"], told["reached"]) == (3, 3)


def test_settings_are_used_where_they_decide():
    """Steps of 3 / (1000 rate) whatever the method: only the regression can say so."""
    rates = [1e-4, 3e-4, 1e-3, 3e-3]
    found = [RecordedRun(name, rate, 1.0, 0.003 / rate * 20, True, 0.9) for name in "abcd" for rate in rates]
    fit = fitted(found)
    assert fit["steps"]["chosen"] == SETTINGS and is_better(fit["steps"])
    assert fit["steps"]["model"]["learning_rate"] == pytest.approx(-math.log(10), rel=0.05)
    told = forecast(fit, "a", 5e-4, 1.0)["steps"]
    assert told["value"] == pytest.approx(120, rel=0.1) and told["interval"][0] < told["value"] < told["interval"][1]


def test_methods_that_do_not_differ_are_no_gain():
    fit = fitted(runs(a=[100, 50, 200], b=[200, 100, 50], c=[50, 200, 100]))
    assert not is_better(fit["steps"])
    assert fit["kept"]["chosen"] == ALL and fit["kept"]["gain"] is None and not is_better(fit["kept"])


def test_where_nothing_was_recorded_nothing_is_forecast():
    fit = fitted(runs(slow=[200, 100], fast=[20, 30]))
    unknown = forecast(fit, "new", 3e-4, 1.0)
    assert unknown["why_not"] == "no run of this method was recorded" and unknown["steps"] is unknown["kept"] is None
    assert (
        forecast(fit, "slow", 1e-2, 1.0)["why_not"]
        == "recorded runs have a learning_rate of 0.0003 to 0.0003, not 0.01"
    )
    assert "forget_weight of 1 to 1, not 2" in forecast(fit, "slow", 3e-4, 2.0)["why_not"]
    with pytest.raises(InputError, match="2 runs of 2 methods"):
        fitted(runs(slow=[200], fast=[20]))


def test_the_packaged_fit_is_that_of_the_recorded_runs():
    made = runpy.run_path(str(ROOT / "benchmarks" / "_from_leaderboard.py"))["fit"]()
    packaged = read_fitted()
    assert close(packaged, made), "records have changed: python benchmarks/_from_leaderboard.py"
    assert json.dumps(packaged)  # finite


def close(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == pytest.approx(other, abs=2e-5) if isinstance(one, float) else one == other
