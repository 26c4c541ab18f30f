"""The laboratory's one experiment: train, unlearn in every way, read the weights, let the target come back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from scipy.stats import binom

from llm_unlearn.combinatorial.formulas import Mixture, Task, batches, draw_rows, generators, random_task
from llm_unlearn.combinatorial.network import (
    Network,
    adam,
    cross_entropy,
    descend,
    random_networks,
    true_positive_rate,
)
from llm_unlearn.combinatorial.read_off import codes, keep, null_strengths, published_codes, strengths
from llm_unlearn.combinatorial.recovery import Recovery, recover, reversal
from llm_unlearn.combinatorial.unlearning import (
    SMALL_LEARNING_RATE,
    Subject,
    Unlearned,
    attribution_regularized,
    fit_labels,
    graddiff,
    gradient_ascent,
    npo,
    task_vector,
)

TARGET = 0
REGULARIZER_WEIGHTS = (0.1, 0.3, 1.0, 3.0)
REGULARIZER_WEIGHT = 1.0  # of the method in the table: the smallest of these that removes codes
RECOVERIES = {"target": "target", "all": "all", "unrelated": "retain"}  # and the rows of a `Task`
JUDGED_ROWS = 256

Progress = Callable[[str, int], None]


@dataclass
class LaboratoryArguments:
    """Networks, their training, and how long they may take to recover."""

    seeds: int = field(default=8, metadata={"help": "Networks of every kind, all at once."})
    first_seed: int = field(default=0, metadata={"help": "They have this seed and those that follow."})
    hidden: int = field(default=32, metadata={"help": "Hidden neurons; 16 makes codes share more of them."})
    training_steps: int = field(
        default=4000, metadata={"help": "Of the original, the oracle, relabeling and both students."}
    )
    batch_size: int = field(default=256, metadata={"help": "Rows of a step, except in recovery (64)."})
    learning_rate: float = field(default=0.002, metadata={"help": "Of Adam in these trainings."})
    recovery_steps: int = field(default=500, metadata={"help": "After these, recovery counts as failed."})
    output_dir: str = field(
        default="outputs/combinatorial", metadata={"help": "Folder that receives everything written."}
    )

    _argument_group_name = "laboratory"

    def __post_init__(self):
        for name in ("seeds", "hidden", "training_steps", "batch_size", "recovery_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be over 0")


def total_steps(arguments: LaboratoryArguments) -> int:
    """Steps that `run_laboratory` reports as progress."""
    return 2 * arguments.training_steps + len(RECOVERIES) * arguments.recovery_steps


def run_laboratory(arguments: LaboratoryArguments, progress: Progress = lambda stage, steps: None) -> dict[str, Any]:
    """Do the whole experiment.

    Args:
        progress: called with the name of a stage and the steps it has just taken.

    Returns:
        `models`: for every model by name its measurements, each {"agg_value": median, "interval": [low, high],
        "value_by_index": {seed: value}}; a number of recovery steps is None where the target did not come back, and a
        `keep` where the original has no code. `curves`: for every recovery and model the median, lowest and highest
        true positive rate by step. `regularizer`: the same measurements as in `models` by weight. `weights`: W1 and w2
        of the first seed, with its clauses.
    """
    seeds = list(range(arguments.first_seed, arguments.first_seed + arguments.seeds))
    task = random_task(seeds)
    target_rows = draw_rows(task, task.forget, JUDGED_ROWS, generators(seeds, "target rows")).inputs
    original, oracle = _train(arguments, task, seeds, progress)
    subject = Subject(task, original, seeds, target_rows, arguments.batch_size)
    unlearned, regularized = _unlearn(subject, arguments, progress)
    judge = Judge(subject)

    networks = {"original": original, "oracle": oracle}
    networks |= {name: network for name, (network, _) in unlearned.items()}
    networks |= {name: network for name, (network, _) in regularized.items()}
    steps = {name: taken for name, (_, taken) in (unlearned | regularized).items()}
    recovered = {name: network for name, network in networks.items() if name != "original"}
    measured = {name: judge.measure(network) for name, network in networks.items()}
    for name, taken in steps.items():
        measured[name]["steps"] = taken.tolist()
    curves: dict[str, dict[str, Any]] = {}
    for kind, mixture in RECOVERIES.items():
        outcome = _recover(subject, recovered, getattr(task, mixture), arguments, progress, kind)
        curves[kind] = {name: _curve(one.curve) for name, one in outcome.items()}
        for name, one in outcome.items():
            measured[name][f"recovery_{kind}"] = _steps_or_none(one)
            if kind == "target":
                measured[name]["reversal"] = reversal(original, networks[name], one.network).tolist()
    summaries = {
        name: {what: summary(values, seeds) for what, values in found.items()} for name, found in measured.items()
    }
    return {
        "models": {name: found for name, found in summaries.items() if name not in regularized}
        | {kind: summaries[f"{kind} {REGULARIZER_WEIGHT}"] for kind in ("attribution", "attribution_shuffled")},
        "regularizer": {name: found for name, found in summaries.items() if name in regularized},
        "regularizer_weight": REGULARIZER_WEIGHT,
        "curves": curves,
        "weights": {
            "clauses": task.clauses[0].tolist(),
            "models": {
                name: {"w1": _rounded(network.w1[0]), "w2": _rounded(network.w2[0])}
                for name, network in networks.items()
            },
        },
    }


class Judge:
    """Measures networks against the original they come from."""

    def __init__(self, subject: Subject):
        self.subject = subject
        task, seeds = subject.task, subject.seeds
        self.codes = codes(subject.original, task.clauses)
        self.published_codes = published_codes(subject.original, task.clauses)
        purposes = [(task.only(clause), f"judged clause {clause}") for clause in range(task.clauses.shape[1])]
        self.clause_rows = [
            draw_rows(task, mixture, JUDGED_ROWS, generators(seeds, purpose)).inputs for mixture, purpose in purposes
        ]
        negatives = Mixture(*task.all[:3], positives=0.0)
        self.negatives = draw_rows(task, negatives, JUDGED_ROWS, generators(seeds, "judged negatives")).inputs

    def measure(self, network: Network) -> dict[str, list[float | None]]:
        """Measurement -> a value for each seed."""
        clauses = self.subject.task.clauses
        rates = torch.stack([true_positive_rate(network, rows) for rows in self.clause_rows], dim=1)
        strength, null = strengths(network, clauses), null_strengths(network, clauses.shape[2], self.subject.seeds)
        found = codes(network, clauses)
        kept = keep(found.mT, self.codes.mT)
        kept_as_published = keep(published_codes(network, clauses).mT, self.published_codes.mT)
        others = torch.arange(clauses.shape[1]) != TARGET
        measured = {
            "target_true_positive_rate": rates[:, TARGET],
            "other_true_positive_rate": rates[:, others].mean(1),
            "true_negative_rate": 1 - true_positive_rate(network, self.negatives),
            "code_size": found[..., TARGET].sum(1),
            "keep": kept[:, TARGET],
            "published_keep": kept_as_published[:, TARGET],
            "other_keep": kept[:, others].nanmean(1),
            "strength": strength[:, TARGET],
            "other_strength": strength[:, others].mean(1),
            "null": null,
            "strength_over_null": strength[:, TARGET] / null,
        }
        return {what: values.tolist() for what, values in measured.items()}


def summary(values: Sequence[float | None], seeds: Sequence[int]) -> dict[str, Any]:
    """Median and interval over seeds, in the format of all records; None counts as larger than any number.

    The interval is between order statistics and covers the median of the population with at least 95 %, whatever the
    distribution; with fewer than six seeds there is none, and the range takes its place.
    """
    values = [None if value is None or math.isnan(value) else value for value in values]
    ordered = sorted(math.inf if value is None else value for value in values)
    rank = max(1, int(binom.ppf(0.025, len(ordered), 0.5)))
    return {
        "agg_value": _finite(median(ordered)),
        "interval": [_finite(ordered[rank - 1]), _finite(ordered[-rank])],
        "value_by_index": {str(seed): value for seed, value in zip(seeds, values, strict=True)},
    }


def _train(
    arguments: LaboratoryArguments, task: Task, seeds: Sequence[int], progress: Progress
) -> tuple[Network, Network]:
    """The original and the oracle: the same initial weights, the same random numbers, another formula."""
    start = random_networks(generators(seeds, "initial weights"), arguments.hidden, task.inputs)
    both = Network(*(part.repeat(2, *(1,) * (part.dim() - 1)) for part in start))
    pairs = zip(task.all[:3], task.without_target[:3], strict=True)
    mixture = Mixture(*(torch.cat(masks) for masks in pairs))
    doubled = Task(task.clauses.repeat(2, 1, 1), task.inputs)
    numbers = generators(seeds, "training") + generators(seeds, "training")

    def rows():
        for batch in batches(doubled, mixture, arguments.batch_size, arguments.training_steps, numbers):
            progress("train", 1)
            yield batch

    trained, _ = descend(both, rows(), cross_entropy, adam(arguments.learning_rate))
    halves = zip(*(part.split(len(seeds)) for part in trained), strict=True)
    original, oracle = (Network(*half) for half in halves)
    return original, oracle


def _unlearn(
    subject: Subject, arguments: LaboratoryArguments, progress: Progress
) -> tuple[dict[str, Unlearned], dict[str, Unlearned]]:
    """Every method by name, and the attribution regularizer and its control by name and weight."""
    found = {
        "gradient_ascent": gradient_ascent(subject),
        "graddiff": graddiff(subject),
        "npo": npo(subject),
        "npo_small_steps": npo(subject, SMALL_LEARNING_RATE),
        "task_vector": task_vector(subject),
    }
    found |= fit_labels(
        subject, arguments.learning_rate, arguments.training_steps, lambda steps: progress("fit labels", steps)
    )
    regularized = {}
    for name, shuffled in (("attribution", False), ("attribution_shuffled", True)):
        progress("regularize", 0)
        for weight, one in zip(
            REGULARIZER_WEIGHTS, attribution_regularized(subject, REGULARIZER_WEIGHTS, shuffled), strict=True
        ):
            regularized[f"{name} {weight}"] = one
    return found, regularized


def _recover(
    subject: Subject,
    networks: dict[str, Network],
    mixture: Mixture,
    arguments: LaboratoryArguments,
    progress: Progress,
    kind: str,
) -> dict[str, Recovery]:
    """Recovery of all models at once, taken apart by model."""
    together = Network(*(torch.cat(parts) for parts in zip(*networks.values(), strict=True)))
    outcome = recover(
        subject.task,
        mixture,
        together,
        subject.forget_rows,
        subject.seeds,
        arguments.recovery_steps,
        lambda steps: progress(f"recover: {kind}", steps),
    )
    count = len(subject.seeds)
    parts = zip(*(part.split(count) for part in outcome.network), strict=True)
    rest = (outcome.steps.split(count), outcome.recovered.split(count), outcome.curve.split(count, dim=1))
    return {name: Recovery(Network(*part), *others) for name, part, *others in zip(networks, parts, *rest, strict=True)}


def _curve(rates: torch.Tensor) -> dict[str, list[float]]:
    """(steps + 1, networks) -> over networks, by step."""
    return {
        "median": _rounded(rates.quantile(0.5, dim=1)),
        "lowest": _rounded(rates.amin(1)),
        "highest": _rounded(rates.amax(1)),
    }


def _steps_or_none(outcome: Recovery) -> list[int | None]:
    return [
        taken if recovered else None
        for taken, recovered in zip(outcome.steps.tolist(), outcome.recovered.tolist(), strict=True)
    ]


def _rounded(tensor: torch.Tensor) -> list:
    return (
        [[round(value, 4) for value in row] for row in tensor.tolist()]
        if tensor.dim() > 1
        else [round(value, 4) for value in tensor.tolist()]
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
