"""The laboratory's one experiment: train, unlearn in every way, read the weights, let the target come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from llm_unlearn.arguments.ranges import COUNT, POSITIVE, SEED, check_ranges
from llm_unlearn.combinatorial.attribution import attribution_regularized
from llm_unlearn.combinatorial.formulas import Mixture, Task, batches, draw_rows, generators, random_task
from llm_unlearn.combinatorial.inside import Inside, agreement
from llm_unlearn.combinatorial.judge import JUDGED_ROWS, Judge, summary
from llm_unlearn.combinatorial.label_methods import fit_labels
from llm_unlearn.combinatorial.network import Network, adam, cross_entropy, descend, random_networks
from llm_unlearn.combinatorial.output_methods import SMALL_LEARNING_RATE, graddiff, gradient_ascent, npo, task_vector
from llm_unlearn.combinatorial.recovery import Recovery, recover, reversal
from llm_unlearn.combinatorial.subject import Subject, Unlearned

REGULARIZER_WEIGHTS = (0.1, 0.3, 1.0, 3.0)
REGULARIZER_WEIGHT = 1.0  # of the method in the table: the smallest of these that removes codes
REGULARIZERS = {"attribution": False, "attribution_shuffled": True}  # and whether neurons swap gradients
RECOVERIES = {"target": "target", "all": "all", "unrelated": "retain"}  # and the rows of a `Task`

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
        counts = ("seeds", "hidden", "training_steps", "batch_size", "recovery_steps")
        check_ranges(self, dict.fromkeys(counts, COUNT) | {"first_seed": SEED, "learning_rate": POSITIVE})


def total_steps(arguments: LaboratoryArguments) -> int:
    """Steps that `run_laboratory` reports as progress."""
    return 2 * arguments.training_steps + len(RECOVERIES) * arguments.recovery_steps


def run_laboratory(arguments: LaboratoryArguments, progress: Progress = lambda stage, steps: None) -> dict[str, Any]:
    """Do the whole experiment.

    Args:
        progress: called with the name of a stage and the steps it has just taken.

    Returns:
        `models`: for every model by name its measurements, each {"agg_value": median, "interval": [low, high],
        "value_by_index": {seed: value}}; steps of a recovery are None where the target did not come back, `keep` where
        the original has no code. `agreement`: the same, of rank correlations over the methods, by audit and what it
        should say. `curves`: for every recovery and model the median, lowest and highest true positive rate by step.
        `regularizer`: as `models`, by kind and weight. `weights`: W1 and w2 of the first seed, with its clauses.
    """
    seeds = list(range(arguments.first_seed, arguments.first_seed + arguments.seeds))
    task = random_task(seeds)
    target_rows = draw_rows(task, task.forget, JUDGED_ROWS, generators(seeds, "target rows")).inputs
    original, oracle, other_oracle = _train(arguments, task, seeds, progress)
    subject = Subject(task, original, seeds, target_rows, arguments.batch_size)
    unlearned = _unlearn(subject, arguments, progress)
    judge, inside = Judge(subject), Inside(subject, oracle)

    references = {"original": original, "oracle": oracle, "other_oracle": other_oracle}
    networks = references | {name: network for name, (network, _) in unlearned.items()}
    measured = {name: judge.measure(network) | inside.measure(network) for name, network in networks.items()}
    for name, (_, taken) in unlearned.items():
        measured[name]["steps"] = taken.tolist()
    curves: dict[str, dict[str, Any]] = {}
    to_recover = {name: network for name, network in networks.items() if name != "original"}
    for kind, mixture in RECOVERIES.items():
        outcome = _recover(subject, to_recover, getattr(task, mixture), arguments, progress, kind)
        curves[kind] = {name: _curve(one.curve) for name, one in outcome.items()}
        for name, one in outcome.items():
            measured[name][f"recovery_{kind}"] = _steps(one)
            if kind == "target":
                measured[name]["reversal"] = reversal(original, networks[name], one.network).tolist()
    summaries = {
        name: {what: summary(values, seeds) for what, values in found.items()} for name, found in measured.items()
    }
    regularizer = {
        kind: {str(weight): summaries[_regularized_name(kind, weight)] for weight in REGULARIZER_WEIGHTS}
        for kind in REGULARIZERS
    }
    others = {_regularized_name(kind, weight) for kind in REGULARIZERS for weight in REGULARIZER_WEIGHTS} - set(
        REGULARIZERS
    )
    methods = {name: found for name, found in measured.items() if name not in others | references.keys()}
    return {
        "models": {name: found for name, found in summaries.items() if name not in others},
        "agreement": {
            audit: {truth: summary(values, seeds) for truth, values in by_truth.items()}
            for audit, by_truth in agreement(methods).items()
        },
        "regularizer": regularizer,
        "curves": {
            kind: {name: curve for name, curve in by.items() if name not in others} for kind, by in curves.items()
        },
        "weights": {
            "clauses": task.clauses[0].tolist(),
            "models": {
                name: {"w1": _rounded(network.w1[0]), "w2": _rounded(network.w2[0])}
                for name, network in networks.items()
                if name not in others
            },
        },
    }


def _train(
    arguments: LaboratoryArguments, task: Task, seeds: Sequence[int], progress: Progress
) -> tuple[Network, Network, Network]:
    """The original and the oracle: the same initial weights, the same random numbers, another formula; and an oracle
    from other initial weights."""
    starts = [
        random_networks(generators(seeds, purpose), arguments.hidden, task.inputs)
        for purpose in ("initial weights", "initial weights", "other initial weights")
    ]
    together = Network(*(torch.cat(parts) for parts in zip(*starts, strict=True)))
    masks = zip(task.all[:3], task.without_target[:3], task.without_target[:3], strict=True)
    mixture = Mixture(*(torch.cat(parts) for parts in masks))
    tripled = Task(task.clauses.repeat(3, 1, 1), task.inputs)
    numbers = [one for _ in starts for one in generators(seeds, "training")]

    def rows():
        for batch in batches(tripled, mixture, arguments.batch_size, arguments.training_steps, numbers):
            progress("train", 1)
            yield batch

    trained, _ = descend(together, rows(), cross_entropy, adam(arguments.learning_rate))
    thirds = zip(*(part.split(len(seeds)) for part in trained), strict=True)
    original, oracle, other_oracle = (Network(*third) for third in thirds)
    return original, oracle, other_oracle


def _unlearn(subject: Subject, arguments: LaboratoryArguments, progress: Progress) -> dict[str, Unlearned]:
    """Every method, and the attribution regularizer and its control with every weight, by name."""
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
    progress("regularize", 0)
    for kind, shuffled in REGULARIZERS.items():
        regularized = attribution_regularized(subject, REGULARIZER_WEIGHTS, shuffled)
        for weight, one in zip(REGULARIZER_WEIGHTS, regularized, strict=True):
            found[_regularized_name(kind, weight)] = one
    return found


def _regularized_name(kind: str, weight: float) -> str:
    """What stands in the table has no weight in its name."""
    return kind if weight == REGULARIZER_WEIGHT else f"{kind} {weight}"


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


def _steps(outcome: Recovery) -> list[float]:
    return outcome.steps.double().masked_fill(~outcome.recovered, torch.inf).tolist()


def _rounded(tensor: torch.Tensor) -> list:
    return (
        [[round(value, 4) for value in row] for row in tensor.tolist()]
        if tensor.dim() > 1
        else [round(value, 4) for value in tensor.tolist()]
    )
