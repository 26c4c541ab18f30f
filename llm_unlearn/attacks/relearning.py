"""Relearning attacks: a little fine-tuning, and then: does what was "forgotten" come back?

This is the one loop of the attacks that train; what each of them trains on and scores stands in its own file. The
attacker tunes all weights or a LoRA adapter, with a grid of learning rates each.
The same attack must be run on the original, on the oracle and on the unlearned model: only the excess over the oracle,
which never knew the facts, is knowledge that was hidden instead of erased.

Whatever type a model is stored in, what is trained has 32 bits: in bfloat16 nearly all of an attack's updates would be
rounded away. Each run says in `lost_updates` what share of the last step was; it should be 0.

Sources: Yang et al., arXiv 2509.22263 (reinjection with its pool of forgotten rows, benign tuning); Hu et al. 2024,
arXiv 2406.13356 (benign relearning).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from peft import PeftModel
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from llm_unlearn.attacks.copies import attackable_copy, only_trainable
from llm_unlearn.attacks.curves import RecoveryCurve, summarize_runs
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.errors import InputError
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.models.scoring import score_answers

ATTACKERS = ("full", "lora")
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
    return evenly_spread(names, count)


@dataclass(frozen=True)
class Choice:
    """The data of one run: what is trained, and the numbers of the forget rows that are trained and scored."""

    training_rows: Sequence[EncodedRow]
    injected: list[int]
    scored: list[int]
    group: str | None = None  # the one left out, and scored


def other_data(training_rows: Sequence[EncodedRow], forget_rows: Sequence[EncodedRow]):
    """Training on anything but forget rows, all of which are scored."""
    return lambda _seed: [Choice(training_rows, [], list(range(len(forget_rows))))]


def relearning_attack(
    model: PreTrainedModel,
    choose: Callable[[int], list[Choice]],
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    budget: AttackBudget,
    title: str,
    answer: Answerer | None,
    made_up: MadeUpRows | None,
    part: str | None = None,
) -> dict:
    """Every attacker, learning rate and seed on fresh copies of the model, scored along the way.

    Args:
        part: all that is trained, as in `copies.only_trainable`, by which runs are called then: the budget's attackers
            play no part, the learning rates are those of full fine-tuning. None: what each attacker trains.
    """
    if part is not None:
        budget = replace(budget, attackers=("full",))
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
            if part is not None:
                attacked = only_trainable(attacked, part)
            beside = MadeUpRows(lambda _scored: []) if made_up is None else made_up
            sets = {
                "forget": ([forget_rows[i] for i in choice.scored], beside.forget(choice.scored)),
                "retain": (retain_rows, beside.retain),
            }
            run = RecoveryCurve(attacked, sets, budget.steps, budget.score_every, progress)
            run.score(0)
            lost = relearn(attacked, choice.training_rows, budget, learning_rate, seed, run.after_step)
            best = max(run.points, key=lambda point: point["forget_probability"])
            values = run.values[best["step"]]
            runs.append(
                {
                    "attacker": part or attacker,
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
                asked = evenly_spread(choice.scored, SAMPLE_TEXTS)
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


def evenly_spread(values: Sequence, count: int) -> list:
    """All of the values, or `count` of them."""
    count = min(count, len(values))
    return [values[i * len(values) // count] for i in range(count)]
