"""Recovery curves: what is scored while a model relearns, and what remains of several runs."""

from __future__ import annotations

from tqdm.auto import tqdm

from llm_unlearn.metrics import knowledge
from llm_unlearn.models.scoring import mean_scores, score_beside_made_up

SCORES = ("forget_exact_match", "forget_probability", "retain_exact_match", "retain_probability")
KNOWLEDGE = ("forget_knowledge", "retain_knowledge")  # at the step at which the forget probability is highest


class RecoveryCurve:
    """Scores a model while it relearns: on two sets of rows, each with its made-up answers.

    Args:
        sets: name -> (rows, the made-up answers of each).
        steps, score_every: of the attack; the last step is scored in any case.
    """

    def __init__(self, model, sets: dict[str, tuple], steps: int, score_every: int, progress: tqdm):
        self.model, self.sets, self.progress = model, sets, progress
        self.steps, self.score_every = steps, score_every
        self.points: list[dict] = []
        self.values: dict[int, dict[str, list[dict]]] = {}  # step -> set -> values of each row

    def score(self, step: int) -> None:
        point, self.values[step] = {"step": step}, {}
        for name, (rows, made_up) in self.sets.items():
            scores, wins = score_beside_made_up(self.model, rows, made_up)
            values = [{"probability": one.probability, "exact_match": float(one.exact_match)} for one in scores]
            for value, won in zip(values, wins, strict=False):
                value["wins"] = won
            self.values[step][name] = values
            if scores:
                point |= {f"{name}_{score}": mean for score, mean in mean_scores(scores).items()}
            if wins and (known := knowledge({str(i): value for i, value in enumerate(values)})) is not None:
                point[f"{name}_knowledge"] = known
        self.points.append(point)

    def after_step(self, step: int) -> None:
        self.progress.update()
        if step % self.score_every == 0 or step == self.steps:
            self.score(step)


def summarize_runs(runs: list[dict]) -> dict:
    """The attack's result: maxima along the mean curve over seeds of the strongest attacker and learning rate.

    Returns:
        The scores (each the maximum along `curve`; those on retain rows where there are any; knowledge where there are
        made-up answers, at the step of the highest forget probability), `attacker` and
        `learning_rate` (with the highest forget probability), `curve` (mean over seeds, a point per scored step, step 0
        first) and `runs`. Where groups were left out, `curve` is the mean over all their rows, and `groups` has for
        each of them `rows` (how many) and the same scores of its own. Where texts were asked for, the first run of
        every attacker and learning rate has `answers`: {"step": the last, "by_index": {row: greedy answer}}, of a few
        of the rows that it scored.
    """
    by_choice: dict[tuple[str, float], list[dict]] = {}
    for run in runs:
        by_choice.setdefault((run["attacker"], run["learning_rate"]), []).append(run)
    curves = {choice: _mean_curve(group) for choice, group in by_choice.items()}
    strongest = max(curves, key=lambda choice: max(point["forget_probability"] for point in curves[choice]))
    curve = curves[strongest]
    summary = _maxima(curve) | dict(zip(("attacker", "learning_rate"), strongest, strict=True)) | {"curve": curve}
    by_group: dict[str, list[dict]] = {}
    for run in by_choice[strongest]:
        if "group" in run:
            by_group.setdefault(run["group"], []).append(run)
    if by_group:
        summary["groups"] = {
            name: {"rows": len(group[0]["value_by_index"])} | _maxima(_mean_curve(group))
            for name, group in by_group.items()
        }
    return summary | {"runs": runs}


def steps_to_half(curve: list[dict], original_probability: float | None) -> int | None:
    """The first scored step at which the forget probability is at least half of the original model's.

    Args:
        curve: of a result of `summarize_runs`.
        original_probability: the original's mean forget probability on the same rows, before any attack.

    Returns:
        The number of steps; None where the original is unknown, or half of it was never reached.
    """
    if original_probability is None:
        return None
    reached = (point["step"] for point in curve if point["forget_probability"] >= original_probability / 2)
    return next(reached, None)


def _maxima(curve: list[dict]) -> dict[str, float]:
    strongest = max(curve, key=lambda point: point["forget_probability"])
    maxima = {name: max(point[name] for point in curve) for name in SCORES if name in curve[0]}
    return maxima | {name: strongest[name] for name in KNOWLEDGE if name in strongest}


def _mean_curve(runs: list[dict]) -> list[dict]:
    """The mean over runs: every seed counts alike, and of groups that were left out every row."""
    weights = [len(run["value_by_index"]) if "group" in run else 1 for run in runs]
    return [_mean_point(points, weights) for points in zip(*(run["curve"] for run in runs), strict=True)]


def _mean_point(points: tuple[dict, ...], weights: list[int]) -> dict:
    means = {
        name: sum(weight * point[name] for weight, point in zip(weights, points, strict=True)) / sum(weights)
        for name in (*SCORES, *KNOWLEDGE)
        if all(name in point for point in points)
    }
    return {"step": points[0]["step"]} | means
