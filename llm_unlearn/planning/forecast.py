"""How many steps a method will take and what it will leave of the weakest ability, by the runs that were recorded.

Three guesses are compared by leaving out one run after the other: the median of all runs, that of the method's, and a
ridge regression on the method, the learning rate and the forget weight. The one with the smallest mean error forecasts;
its interval holds 80 % of these errors. Steps are fitted as logarithms, so their errors are factors. `forecast.json`
beside this file is such a fit, made by `benchmarks/_from_leaderboard.py`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm_unlearn.errors import InputError
from llm_unlearn.metrics.intervals import RESAMPLES, percentile_interval

FORMAT = 1
FITTED = Path(__file__).with_name("forecast.json")
ALL, METHOD, SETTINGS = "median of all runs", "median of the method's runs", "method, learning rate and forget weight"
COVERED = 0.8  # of the errors, by an interval
PULL = {"method": 1.0, "settings": 0.1}  # of the regression's coefficients towards 0
REFERENCE_RATE = 3e-4  # where the learning rate has no effect on a forecast
# What recorded runs have in common. Entries of the leaderboard with anything else are left out.
WORLD, ADAPTER, WEIGHTS = "fictional (forget10)", "LoRA of rank 64", {"retain_weight": 60.0, "general_weight": 100.0}
STOPPING = "stop_at_forget_probability"


class RecordedRun(NamedTuple):
    """One setting of a method that was run: until the stopping scores, or (`reached` false) to the last step."""

    method: str
    learning_rate: float
    forget_weight: float
    steps: float
    reached: bool
    kept: float


def trials_of(text: str) -> list[RecordedRun]:
    """The trials in a tune.csv that did not diverge.

    Raises:
        InputError: it has no such columns, or a name without a learning rate.
    """
    found = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
        try:
            if row["diverged"]:
                continue
            fields = dict(pair.split("=") for pair in row["name"].partition(":")[2].split(","))
            weights = float(fields["learning_rate"]), float(fields.get("forget_weight", 1.0))
            reached = bool(row["stopped_by"])
            found.append(RecordedRun(row["method"], *weights, float(row["steps"]), reached, float(row["trial_kept"])))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"line {number} is no trial of `llm-unlearn run tune` ({error}); give its tune.csv"
            ) from error
    return found


def entry_of(entry: Mapping[str, Any]) -> RecordedRun | None:
    """A leaderboard entry as one run, the mean of its seeds; None where it was run in another way than trials are."""
    settings = entry["settings"]
    alike = (entry["world"], entry["setting"]) == (WORLD, ADAPTER) and STOPPING not in settings
    fixed = settings.get("retain_loss") == "none"  # by the method's form, in trials as well
    if not alike or not (fixed or all(settings.get(name) == value for name, value in WEIGHTS.items())):
        return None
    weights = settings["learning_rate"], settings.get("forget_weight", 1.0)
    reached = entry["reached"] == len(entry["seeds"])
    return RecordedRun(entry["method"], *weights, entry["steps"], reached, entry["lowest"]["share"])


def fitted(runs: Sequence[RecordedRun]) -> dict[str, Any]:
    """What `forecast` needs, as JSON values: how well each guess does, and the one that does best.

    Returns:
        {"format", "runs", "methods": {name: {"runs", "reached"}}, "ranges": {"learning_rate", "forget_weight": [lowest,
        highest]}, "steps" and "kept": {"errors": {guess: {"mean", "median"}} of absolute errors (of steps, of their
        logarithms), "chosen", "gain": {"mean", "interval"} (how much smaller its error is than that of `ALL`, with 95 %
        over methods; None where it is that one), "residuals": [low, high], "model"}}.

    Raises:
        InputError: fewer than two runs of two methods each, which leave nothing to compare.
    """
    methods = list(dict.fromkeys(run.method for run in runs))
    of_method = {name: [run for run in runs if run.method == name] for name in methods}
    if sum(len(found) > 1 for found in of_method.values()) < 2:
        raise InputError(
            f"{len(runs)} runs of {len(methods)} methods; a forecast needs two runs of two methods or more"
        )
    found: dict[str, Any] = {
        "format": FORMAT,
        "runs": len(runs),
        "methods": {
            name: {"runs": len(own), "reached": sum(run.reached for run in own)} for name, own in of_method.items()
        },
        "ranges": {
            name: [min(getattr(run, name) for run in runs), max(getattr(run, name) for run in runs)]
            for name in ("learning_rate", "forget_weight")
        },
    }
    for what, targets in (("steps", [math.log(run.steps) for run in runs]), ("kept", [run.kept for run in runs])):
        found[what] = _fitted(runs, targets, methods)
    return found


def _fitted(runs: Sequence[RecordedRun], targets: Sequence[float], methods: Sequence[str]) -> dict[str, Any]:
    residuals = {}
    for guess, fit in _GUESSES.items():
        rest = [[k for k in range(len(runs)) if k != left_out] for left_out in range(len(runs))]
        models = [fit([runs[k] for k in own], [targets[k] for k in own]) for own in rest]
        guessed = [guessed_by(model, run.method, *run[1:3]) for model, run in zip(models, runs, strict=True)]
        residuals[guess] = np.array(targets) - guessed
    errors = {guess: np.abs(values) for guess, values in residuals.items()}
    chosen = min(errors, key=lambda guess: errors[guess].mean())
    tail = (1 - COVERED) / 2
    return {
        "errors": {guess: {"mean": float(e.mean()), "median": float(np.median(e))} for guess, e in errors.items()},
        "chosen": chosen,
        "gain": None if chosen == ALL else _gain(errors[ALL] - errors[chosen], [run.method for run in runs], methods),
        "residuals": np.quantile(residuals[chosen], [tail, 1 - tail]).tolist(),
        "model": _GUESSES[chosen](runs, targets),
    }


def _gain(gains: np.ndarray, of_run: Sequence[str], methods: Sequence[str]) -> dict[str, Any]:
    """Mean over runs, and its interval by drawing methods with all of their runs."""
    of_method = np.array([[one == name for name in methods] for one in of_run], float)
    draws = np.random.default_rng(0).multinomial(len(methods), np.full(len(methods), 1 / len(methods)), RESAMPLES)
    means = (draws @ (gains @ of_method)) / (draws @ of_method.sum(0))
    return {"mean": float(gains.mean()), "interval": [*percentile_interval(means, units=len(methods))]}


def _median(runs: Sequence[RecordedRun], targets: Sequence[float]) -> dict[str, Any]:
    return {"all": float(np.median(targets)), "by_method": {}}


def _median_by_method(runs: Sequence[RecordedRun], targets: Sequence[float]) -> dict[str, Any]:
    """A method of which there is no run has the median of all."""
    by_method: dict[str, list[float]] = {}
    for run, target in zip(runs, targets, strict=True):
        by_method.setdefault(run.method, []).append(target)
    found = {name: float(np.median(own)) for name, own in by_method.items()}
    return {"all": float(np.median(targets)), "by_method": {k: v - float(np.median(targets)) for k, v in found.items()}}


def _regression(runs: Sequence[RecordedRun], targets: Sequence[float]) -> dict[str, Any]:
    """target = all + that of the method + a log10(rate / 3e-4) + b log10(forget weight), by ridge regression."""
    methods = list(dict.fromkeys(run.method for run in runs))
    columns = [[1.0, *_logarithms(run[1], run[2]), *(run.method == name for name in methods)] for run in runs]
    pull = np.diag([0.0, *[PULL["settings"]] * 2, *[PULL["method"]] * len(methods)])
    features = np.array(columns, float)
    every, rate, weight, *own = np.linalg.solve(features.T @ features + pull, features.T @ np.array(targets)).tolist()
    by_method = dict(zip(methods, own, strict=True))
    return {"all": every, "learning_rate": rate, "forget_weight": weight, "by_method": by_method}


_GUESSES: dict[str, Callable[[Sequence[RecordedRun], Sequence[float]], dict[str, Any]]] = {
    ALL: _median,
    METHOD: _median_by_method,
    SETTINGS: _regression,
}


def guessed_by(model: Mapping[str, Any], method: str, learning_rate: float, forget_weight: float) -> float:
    """What a fitted guess says: a logarithm of steps, or a share."""
    rate, weight = _logarithms(learning_rate, forget_weight)
    settings = model.get("learning_rate", 0.0) * rate + model.get("forget_weight", 0.0) * weight
    return model["all"] + model["by_method"].get(method, 0.0) + settings


def _logarithms(learning_rate: float, forget_weight: float) -> tuple[float, float]:
    return math.log10(learning_rate / REFERENCE_RATE), math.log10(forget_weight)


def forecast(fit: Mapping[str, Any], method: str, learning_rate: float, forget_weight: float) -> dict[str, Any]:
    """Steps and kept share of a method with these settings, each {"value", "interval"}, or why there is no forecast.

    Returns:
        {"method", "learning_rate", "forget_weight", "runs", "reached" (of the method's recorded runs), "steps", "kept",
        "why_not"}: steps and kept are None where `why_not` is not. The share lies between 0 and 1.
    """
    own = fit["methods"].get(method, {"runs": 0, "reached": 0})
    given = {"learning_rate": learning_rate, "forget_weight": forget_weight}
    found = {"method": method, **given, **own, "steps": None, "kept": None, "why_not": None}
    if not own["runs"]:
        return found | {"why_not": "no run of this method was recorded"}
    for name, value in given.items():
        lowest, highest = fit["ranges"][name]
        if not lowest <= value <= highest:
            return found | {"why_not": f"recorded runs have a {name} of {lowest:g} to {highest:g}, not {value:g}"}
    for what, told in (("steps", math.exp), ("kept", lambda share: min(1.0, max(0.0, share)))):
        middle = guessed_by(fit[what]["model"], method, learning_rate, forget_weight)
        ends = [told(middle + residual) for residual in fit[what]["residuals"]]
        found[what] = {"value": told(middle), "interval": ends}
    return found


def is_better(fit: Mapping[str, Any]) -> bool:
    """Whether what was chosen (of steps or of kept shares) is surely better than the median of all runs."""
    return fit["gain"] is not None and fit["gain"]["interval"][0] > 0


def read_fitted(path: Path = FITTED) -> dict[str, Any]:
    """The fit that comes with the package."""
    return json.loads(path.read_text(encoding="utf-8"))
