"""Relearning attacks: a little fine-tuning, and then: does what was "forgotten" come back?

There is one loop with two choices of data. *Adversarial reinjection* trains on a fraction of the forget facts and
scores the facts that were never reinjected; *benign relearning* trains on instructions that have nothing to do with
them. The same attack must be run on the original, on the oracle and on the unlearned model: only the excess over the
oracle, which never knew the facts, is knowledge that was hidden instead of erased.

Sources: Yang et al., arXiv 2509.22263 (both attacks); Hu et al. 2024, arXiv 2406.13356 (benign relearning).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass

from peft import PeftModel
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.errors import InputError
from llm_unlearn.finetuning import finetune
from llm_unlearn.scoring import AnswerScore, score_answers

SCORES = ("forget_exact_match", "forget_probability", "retain_exact_match", "retain_probability")


@dataclass(frozen=True)
class AttackBudget:
    """What the attacker may spend: full fine-tuning with AdamW, every learning rate with every seed.

    learning_rates: the strongest one counts. fraction: share of forget *facts* that reinjection trains on (all question
    templates of a fact together). seeds: of the reinjected facts and the order of rows. score_every: steps between two
    points of the curve.
    """

    learning_rates: tuple[float, ...] = (1e-5,)
    fraction: float = 0.3
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 60
    batch_size: int = 8
    score_every: int = 10

    def __post_init__(self):
        if not 0 < self.fraction < 1:
            raise InputError(
                f"attack fraction={self.fraction} must lie between 0 and 1: something to inject, some to score"
            )
        if not self.learning_rates or not self.seeds:
            raise InputError("an attack needs at least one learning rate and one seed")
        for name in ("steps", "batch_size", "score_every"):
            if getattr(self, name) < 1:
                raise InputError(f"attack {name}={getattr(self, name)} must be 1 or more")


def split_facts(fact_ids: Sequence[str | int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers to inject and row numbers to score; no fact is on both sides.

    Args:
        fact_ids: the fact of each row; rows of one fact (other wordings of one question) stay together.

    Raises:
        InputError: fewer than two facts.
    """
    facts = list(dict.fromkeys(fact_ids))
    if len(facts) < 2:
        raise InputError(f"reinjection needs at least two forget facts (one to inject, one to score), got {len(facts)}")
    count = min(max(1, round(fraction * len(facts))), len(facts) - 1)
    injected = set(random.Random(seed).sample(facts, count))
    rows = range(len(fact_ids))
    return [i for i in rows if fact_ids[i] in injected], [i for i in rows if fact_ids[i] not in injected]


def adversarial_reinjection(
    model: PreTrainedModel,
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    fact_ids: Sequence[str | int] | None = None,
    title: str = "reinjection",
) -> dict:
    """Train on a fraction of the forget facts; score the rest. Returns what `summarize_runs` returns.

    Args:
        retain_rows: scored along the curve, never trained.
        fact_ids: the fact of each forget row; by default every row is a fact of its own.
    """
    fact_ids = fact_ids if fact_ids is not None else range(len(forget_rows))

    def choose(seed: int) -> tuple[list[EncodedRow], list[int], list[int]]:
        injected, scored = split_facts(fact_ids, budget.fraction, seed)
        return [forget_rows[i] for i in injected], injected, scored

    return _attack(model, choose, forget_rows, retain_rows, budget, title)


def benign_relearning(
    model: PreTrainedModel,
    instruction_rows: Sequence[EncodedRow],
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    title: str = "benign tuning",
) -> dict:
    """Train on instructions; score all forget rows. Returns what `summarize_runs` returns."""
    if not instruction_rows:
        raise InputError("benign relearning needs instruction rows, got none")
    every_row = list(range(len(forget_rows)))
    return _attack(model, lambda _seed: (instruction_rows, [], every_row), forget_rows, retain_rows, budget, title)


def _attack(model, choose, forget_rows, retain_rows, budget: AttackBudget, title: str) -> dict:
    """Every learning rate with every seed on a fresh copy of the model, scored along the way."""
    runs = []
    total = len(budget.learning_rates) * len(budget.seeds) * budget.steps
    with tqdm(total=total, desc=title, unit="step", dynamic_ncols=True, leave=False) as progress:
        for learning_rate in budget.learning_rates:
            for seed in budget.seeds:
                training_rows, injected, scored = choose(seed)
                attacked = attackable_copy(model)
                run = _Curve(attacked, [forget_rows[i] for i in scored], retain_rows, budget, progress)
                run.score(0)
                finetune(
                    attacked,
                    training_rows,
                    learning_rate=learning_rate,
                    steps=budget.steps,
                    batch_size=budget.batch_size,
                    seed=seed,
                    after_step=run.after_step,
                )
                best = max(run.points, key=lambda point: point["forget_probability"])
                values = run.forget_scores[best["step"]]
                runs.append(
                    {
                        "learning_rate": learning_rate,
                        "seed": seed,
                        "curve": run.points,
                        "injected_rows": injected,
                        "best_step": best["step"],
                        "value_by_index": {
                            str(row): {"probability": score.probability, "exact_match": float(score.exact_match)}
                            for row, score in zip(scored, values, strict=True)
                        },
                    }
                )
    return summarize_runs(runs)


def attackable_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose every weight can be trained; an adapter is merged, as an attacker would."""
    attacked = copy.deepcopy(model)
    if isinstance(attacked, PeftModel):
        attacked = attacked.merge_and_unload()
    return attacked.requires_grad_(True)


def summarize_runs(runs: list[dict]) -> dict:
    """The attack's result: maxima along the mean curve over seeds at the strongest learning rate.

    Returns:
        The scores (each the maximum along `curve`; those on retain rows where there are any), `learning_rate` (with
        the highest forget probability), `curve` (mean over seeds, a point per scored step, step 0 first) and `runs`.
    """
    curves = {}
    for learning_rate in dict.fromkeys(run["learning_rate"] for run in runs):
        points = zip(*(run["curve"] for run in runs if run["learning_rate"] == learning_rate), strict=True)
        curves[learning_rate] = [_mean_point(point) for point in points]
    strongest = max(curves, key=lambda rate: max(point["forget_probability"] for point in curves[rate]))
    curve = curves[strongest]
    maxima = {name: max(point[name] for point in curve) for name in SCORES if name in curve[0]}
    return maxima | {"learning_rate": strongest, "curve": curve, "runs": runs}


def _mean_point(points: tuple[dict, ...]) -> dict:
    names = [name for name in SCORES if name in points[0]]
    return {"step": points[0]["step"]} | {name: sum(p[name] for p in points) / len(points) for name in names}


class _Curve:
    """Scores a model while it relearns."""

    def __init__(self, model, forget_rows, retain_rows, budget: AttackBudget, progress: tqdm):
        self.model, self.forget_rows, self.retain_rows = model, forget_rows, retain_rows
        self.budget, self.progress = budget, progress
        self.points: list[dict] = []
        self.forget_scores: dict[int, list[AnswerScore]] = {}

    def score(self, step: int) -> None:
        self.forget_scores[step] = score_answers(self.model, self.forget_rows)
        sets = {"forget": self.forget_scores[step], "retain": score_answers(self.model, self.retain_rows)}
        point = {"step": step}
        for name, scores in sets.items():
            if scores:
                point[f"{name}_exact_match"] = sum(score.exact_match for score in scores) / len(scores)
                point[f"{name}_probability"] = sum(score.probability for score in scores) / len(scores)
        self.points.append(point)

    def after_step(self, step: int) -> None:
        self.progress.update()
        if step % self.budget.score_every == 0 or step == self.budget.steps:
            self.score(step)
