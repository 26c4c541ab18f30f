"""Relearning attacks: a little fine-tuning, and then: does what was "forgotten" come back?

There is one loop with four choices of data. *Adversarial reinjection* trains on a fraction of the forget facts and
scores the facts that were never reinjected; *leaving one group out* trains on all groups of forget rows but one (all
people but one) and scores that one; *benign relearning* trains on instructions, *retain relearning* on retain rows,
and both score every forget row. The attacker tunes all weights or a LoRA adapter, with a grid of learning rates each.
The same attack must be run on the original, on the oracle and on the unlearned model: only the excess over the oracle,
which never knew the facts, is knowledge that was hidden instead of erased.

Whatever type a model is stored in, what is trained has 32 bits: in bfloat16 nearly all of an attack's updates would be
rounded away. Each run says in `lost_updates` what share of the last step was; it should be 0.

Sources: Yang et al., arXiv 2509.22263 (reinjection with its pool of forgotten rows, benign tuning); Hu et al. 2024,
arXiv 2406.13356 (benign relearning).
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.errors import InputError
from llm_unlearn.finetuning import finetune
from llm_unlearn.metrics import knowledge
from llm_unlearn.precision import stored_dtype, with_master_weights
from llm_unlearn.scoring import score_answers, score_beside_made_up

ATTACKERS = ("full", "lora")
SCORES = ("forget_exact_match", "forget_probability", "retain_exact_match", "retain_probability")
KNOWLEDGE = ("forget_knowledge", "retain_knowledge")  # at the step at which the forget probability is highest
SAMPLE_TEXTS = 6  # rows whose answers are generated after an attack, for readers: a page has room for no more

Answerer = Callable[[PreTrainedModel, list[int]], list[str]]  # (attacked model, forget row numbers) -> its answers


@dataclass(frozen=True)
class MadeUpRows:
    """Made-up answers, with which true ones are compared along the curve (`data.made_up`).

    forget: numbers of the forget rows that are scored -> the encoded made-up answers of each, all of them those of
    scored rows: what the attack itself teaches is no fair guess any more. retain: those of each scored retain row.
    """

    forget: Callable[[Sequence[int]], list[list[EncodedRow]]]
    retain: Sequence[Sequence[EncodedRow]] = ()


@dataclass(frozen=True)
class AttackBudget:
    """What the attacker may spend: AdamW, every learning rate of every attacker with every seed.

    learning_rates: of full fine-tuning; the strongest one counts. fraction: share of forget *facts* that reinjection
    trains on (all question templates of a fact together). seeds: of the reinjected facts, the order of rows and the
    adapter's first weights. score_every: steps between two points of the curve. attackers: "full" (every weight),
    "lora" (an adapter of rank `lora_r` on every linear map of the blocks, with `lora_learning_rates`) or both; the
    strongest one counts. left_out_groups: so many groups are left out in turn, at most. micro_batch_size: rows that are
    run at once, by default the whole batch; activation_checkpointing: whether blocks are computed again in the backward
    instead of kept. These two spare memory and change nothing but rounding.
    """

    learning_rates: tuple[float, ...] = (1e-5,)
    fraction: float = 0.3
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 60
    batch_size: int = 8
    score_every: int = 10
    attackers: tuple[str, ...] = ("full",)
    lora_learning_rates: tuple[float, ...] = (1e-4,)
    lora_r: int = 16
    left_out_groups: int = 5
    micro_batch_size: int | None = None
    activation_checkpointing: bool = False

    @property
    def key(self) -> dict:
        """What decides an attack's outcome.

        Without what only spares memory: an attack that ran out of it and is begun again in smaller parts finds the
        outcomes of those before it.
        """
        spares_memory = ("micro_batch_size", "activation_checkpointing")
        return {name: value for name, value in asdict(self).items() if name not in spares_memory}

    @property
    def grid(self) -> list[tuple[str, float]]:
        """Every attacker with every learning rate of its own."""
        rates = {"full": self.learning_rates, "lora": self.lora_learning_rates}
        return [(attacker, rate) for attacker in self.attackers for rate in rates[attacker]]

    def __post_init__(self):
        if not 0 < self.fraction < 1:
            raise InputError(
                f"attack fraction={self.fraction} must lie between 0 and 1: something to inject, some to score"
            )
        if not self.attackers or not set(self.attackers) <= set(ATTACKERS):
            raise InputError(f"attackers={list(self.attackers)}: choose from {', '.join(ATTACKERS)}, at least one")
        if {attacker for attacker, _ in self.grid} != set(self.attackers) or not self.seeds:
            raise InputError("an attack needs at least one learning rate and one seed")
        for attacker, rate in self.grid:
            if not 0 <= rate < math.inf:
                raise InputError(f"attack learning rate {rate:g} (attacker {attacker}) must be a number of 0 or more")
        for name in ("steps", "batch_size", "score_every", "lora_r", "left_out_groups", "micro_batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"attack {name}={value} must be 1 or more")


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


def forgotten_rows(model: PreTrainedModel, forget_rows: Sequence[EncodedRow]) -> list[int]:
    """Numbers of the rows that the model answers wrongly: the pool that arXiv 2509.22263 reinjects from."""
    return [i for i, score in enumerate(score_answers(model, forget_rows)) if not score.exact_match]


def choose_left_out(groups: Sequence[str | int], count: int) -> list[str | int]:
    """The groups that are left out in turn: all of them, or `count`, evenly spread over the rows.

    Args:
        groups: the group of each forget row.

    Raises:
        InputError: fewer than two groups.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        raise InputError(
            f"leave_one_group_out needs at least two groups of forget rows (one to score, one to train on), got "
            f"{len(names)}: choose another column with leave_out_column"
        )
    return _evenly_spread(names, count)


def adversarial_reinjection(
    model: PreTrainedModel,
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    fact_ids: Sequence[str | int] | None = None,
    title: str = "reinjection",
    *,
    pool: Sequence[int] | None = None,
    answer: Answerer | None = None,
    made_up: MadeUpRows | None = None,
) -> dict:
    """Train on a fraction of the forget facts; score the rest. Returns what `summarize_runs` returns.

    Args:
        retain_rows: scored along the curve, never trained.
        fact_ids: the fact of each forget row; by default every row is a fact of its own.
        pool: numbers of the forget rows that are injected and scored; by default all. To be compared, models need the
            same pool: the `forgotten_rows` of the unlearned one.
        answer: generates the sample texts of `summarize_runs`; None: there are none.
        made_up: what knowledge is measured with; None: it is not.
    """
    pool = range(len(forget_rows)) if pool is None else pool
    facts = [fact_ids[i] if fact_ids is not None else i for i in pool]

    def choose(seed: int) -> list[_Choice]:
        injected, scored = ([pool[i] for i in part] for part in split_facts(facts, budget.fraction, seed))
        return [_Choice([forget_rows[i] for i in injected], injected, scored)]

    return _attack(model, choose, forget_rows, retain_rows, budget, title, answer, made_up)


def leave_one_group_out(
    model: PreTrainedModel,
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    groups: Sequence[str | int],
    title: str = "leaving one group out",
    *,
    answer: Answerer | None = None,
    made_up: MadeUpRows | None = None,
) -> dict:
    """Train on all groups of forget rows but one; score that one. Returns what `summarize_runs` returns.

    Args:
        retain_rows: scored along the curve, never trained.
        groups: the group of each forget row; `budget.left_out_groups` of them are left out in turn.
        answer: generates the sample texts of `summarize_runs`; None: there are none.
        made_up: what knowledge is measured with; None: it is not.
    """
    left_out, rows = choose_left_out(groups, budget.left_out_groups), range(len(forget_rows))

    def choose(_seed: int) -> list[_Choice]:
        choices = []
        for group in left_out:
            injected = [i for i in rows if groups[i] != group]
            scored = [i for i in rows if groups[i] == group]
            choices.append(_Choice([forget_rows[i] for i in injected], injected, scored, str(group)))
        return choices

    return _attack(model, choose, forget_rows, retain_rows, budget, title, answer, made_up)


def benign_relearning(
    model: PreTrainedModel,
    instruction_rows: Sequence[EncodedRow],
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    title: str = "benign tuning",
    *,
    answer: Answerer | None = None,
    made_up: MadeUpRows | None = None,
) -> dict:
    """Train on instructions; score all forget rows. Returns what `summarize_runs` returns.

    Args:
        answer: generates the sample texts of `summarize_runs`; None: there are none.
        made_up: what knowledge is measured with; None: it is not.
    """
    if not instruction_rows:
        raise InputError("benign relearning needs instruction rows, got none")
    choose = _other_data(instruction_rows, forget_rows)
    return _attack(model, choose, forget_rows, retain_rows, budget, title, answer, made_up)


def retain_relearning(
    model: PreTrainedModel,
    training_rows: Sequence[EncodedRow],
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    title: str = "retain tuning",
    *,
    answer: Answerer | None = None,
    made_up: MadeUpRows | None = None,
) -> dict:
    """Train on retain rows; score all forget rows. Returns what `summarize_runs` returns.

    Args:
        training_rows: the whole retain set.
        retain_rows: those of them that are scored along the curve: unlike in the other attacks, rows that are trained.
        answer: generates the sample texts of `summarize_runs`; None: there are none.
        made_up: what knowledge is measured with; None: it is not.
    """
    if not training_rows:
        raise InputError("retain relearning needs retain rows, got none: give a retain set")
    choose = _other_data(training_rows, forget_rows)
    return _attack(model, choose, forget_rows, retain_rows, budget, title, answer, made_up)


@dataclass(frozen=True)
class _Choice:
    """The data of one run: what is trained, and the numbers of the forget rows that are trained and scored."""

    training_rows: Sequence[EncodedRow]
    injected: list[int]
    scored: list[int]
    group: str | None = None  # the one left out, and scored


def _other_data(training_rows: Sequence[EncodedRow], forget_rows: Sequence[EncodedRow]):
    """Training on anything but forget rows, all of which are scored."""
    return lambda _seed: [_Choice(training_rows, [], list(range(len(forget_rows))))]


def _attack(
    model: PreTrainedModel,
    choose: Callable[[int], list[_Choice]],
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    title: str,
    answer: Answerer | None,
    made_up: MadeUpRows | None,
) -> dict:
    """Every attacker, learning rate and seed on fresh copies of the model, scored along the way."""
    runs = []
    plan = [
        (attacker, learning_rate, seed, choice, answer is not None and seed == budget.seeds[0] and number == 0)
        for attacker, learning_rate in budget.grid
        for seed in budget.seeds
        for number, choice in enumerate(choose(seed))
    ]
    with tqdm(total=len(plan) * budget.steps, desc=title, unit="step", dynamic_ncols=True, leave=False) as progress:
        for attacker, learning_rate, seed, choice, with_texts in plan:
            attacked = attackable_copy(model, budget.lora_r if attacker == "lora" else None, seed)
            beside = MadeUpRows(lambda _scored: []) if made_up is None else made_up
            sets = {
                "forget": ([forget_rows[i] for i in choice.scored], beside.forget(choice.scored)),
                "retain": (retain_rows, beside.retain),
            }
            run = _Curve(attacked, sets, budget, progress)
            run.score(0)
            lost = relearn(attacked, choice.training_rows, budget, learning_rate, seed, run.after_step)
            best = max(run.points, key=lambda point: point["forget_probability"])
            values = run.values[best["step"]]
            runs.append(
                {
                    "attacker": attacker,
                    "learning_rate": learning_rate,
                    "seed": seed,
                    **({} if choice.group is None else {"group": choice.group}),
                    "curve": run.points,
                    "injected_rows": choice.injected,
                    "best_step": best["step"],
                    "lost_updates": lost,
                    "value_by_index": dict(zip(map(str, choice.scored), values["forget"], strict=True)),
                    "retain_value_by_index": {str(i): value for i, value in enumerate(values["retain"])},
                }
            )
            if with_texts:
                asked = _evenly_spread(choice.scored, SAMPLE_TEXTS)
                texts = {str(row): text for row, text in zip(asked, answer(attacked, asked), strict=True)}
                runs[-1]["answers"] = {"step": budget.steps, "by_index": texts}
    return summarize_runs(runs)


def relearn(
    attacked: PreTrainedModel | PeftModel,
    rows: Sequence[EncodedRow],
    budget: AttackBudget,
    learning_rate: float,
    seed: int,
    after_step: Callable[[int], None] | None = None,
) -> float:
    """`finetune` an attackable copy as the budget has it; returns the share of updates that were lost."""
    return finetune(
        attacked,
        rows,
        learning_rate=learning_rate,
        steps=budget.steps,
        batch_size=budget.batch_size,
        seed=seed,
        micro_batch_size=budget.micro_batch_size,
        activation_checkpointing=budget.activation_checkpointing,
        after_step=after_step,
    )


def merged_copy(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """A copy in the type that the model is stored in; an adapter that it has is merged, as an attacker would."""
    copied = _copy(model)
    return copied.merge_and_unload() if isinstance(copied, PeftModel) else copied


def attackable_copy(model: PreTrainedModel, lora_r: int | None = None, seed: int = 0) -> PreTrainedModel | PeftModel:
    """A copy that can be trained; an adapter that the model has is merged, as an attacker would.

    What is trained is in float32. Where the model is stored in 16 bits, forwards still compute in 16: see
    `precision.with_master_weights`. Under a new adapter, weights in bfloat16 stay as they are stored.

    Args:
        lora_r: rank of a new adapter on every linear map of the blocks (scaling 2, as the recipes have it); None: every
            weight is trained.
        seed: of the new adapter's first weights, which change nothing before the first step.
    """
    attacked, stored = _copy(model), stored_dtype(model)
    # Gradients would leave the range of float16, also those of an adapter on it.
    in_float32 = stored == torch.float16 or (stored == torch.bfloat16 and lora_r is None)
    if in_float32:
        attacked.float()  # before an adapter is merged, whose small values 16 bits would round away
    if isinstance(attacked, PeftModel):
        attacked = attacked.merge_and_unload()
    if in_float32:
        attacked = with_master_weights(attacked, stored)
    if lora_r is None:
        return attacked.requires_grad_(True)
    adapter = LoraConfig(r=lora_r, lora_alpha=2 * lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):  # adapters get their first weights on the processor
        torch.default_generator.manual_seed(seed)
        return get_peft_model(attacked, adapter)


def _copy(model: PreTrainedModel | PeftModel) -> PreTrainedModel | PeftModel:
    """A copy without the autocast that Accelerate put around a model that was trained in mixed precision.

    Else the unlearned model would be attacked in another precision than the original, which comes from its files.
    """
    copied = copy.deepcopy(model)
    if vars(copied).pop("_original_forward", None) is not None:
        del copied.forward
    return copied


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


def _evenly_spread(values: Sequence, count: int) -> list:
    """All of the values, or `count` of them."""
    count = min(count, len(values))
    return [values[i * len(values) // count] for i in range(count)]


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


class _Curve:
    """Scores a model while it relearns: on two sets of rows, each with its made-up answers."""

    def __init__(self, model, sets: dict[str, tuple], budget: AttackBudget, progress: tqdm):
        self.model, self.sets, self.budget, self.progress = model, sets, budget, progress
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
                point[f"{name}_exact_match"] = sum(score.exact_match for score in scores) / len(scores)
                point[f"{name}_probability"] = sum(score.probability for score in scores) / len(scores)
            if wins and (known := knowledge({str(i): value for i, value in enumerate(values)})) is not None:
                point[f"{name}_knowledge"] = known
        self.points.append(point)

    def after_step(self, step: int) -> None:
        self.progress.update()
        if step % self.budget.score_every == 0 or step == self.budget.steps:
            self.score(step)
