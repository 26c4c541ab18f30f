"""`llm-unlearn run memorization`: exact memorization by trainings on halves of the people, and its proxies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.markup import escape

from llm_unlearn.arguments.parsing import arguments_to_dict, parse_arguments
from llm_unlearn.arguments.ranges import COUNT, SEED, check_ranges
from llm_unlearn.data.fictional import build_world
from llm_unlearn.errors import InputError
from llm_unlearn.files.disk import check_output_dir
from llm_unlearn.files.outcomes import digest_of, remember
from llm_unlearn.files.whole import write_json
from llm_unlearn.metrics.rank_correlation import rank_correlation
from llm_unlearn.planning.memorization import memorization_by_subsets, memorization_gain
from llm_unlearn.planning.subsets import SubsetTrainings, complementary_halves
from llm_unlearn.reporting.memorization_views import memorization_figure, print_memorization
from llm_unlearn.runs.recipe import prepare_process
from llm_unlearn.runs.sharing import become_worker, share

BASE_SEEDS = 1_000_000  # above those of the subsets, however many
GAIN, ALONE, MARGIN = "gain over a base", "answer probability", "margin over made-up answers"
CONFIDENCE, DIVERGENCE = "confidence over training", "held-out retraining"
HALVES = "exact, half against half"

console = Console(highlight=False)


@dataclass
class MemorizationArguments:
    """Which world is trained how often."""

    data: str = field(
        default="fictional",
        metadata={
            "help": "fictional[:tiny|small|medium|smollm2]: a world whose model is trained here again and again."
        },
    )
    trainings: int = field(
        default=16,
        metadata={
            "help": "Trainings, each without half of the people; even, two of them leave out complementary halves. "
            "More make exact values more exact; those that are done are kept."
        },
    )
    seed: int = field(
        default=0, metadata={"help": "Of the original and of the halves; each training has one of its own above it."}
    )
    batch_size: int = field(default=64, metadata={"help": "Rows that are scored at once."})
    output_dir: str = field(
        default="outputs/memorization", metadata={"help": "Folder that receives everything written."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Show what would be trained, then stop."})

    def __post_init__(self):
        check_ranges(self, {"trainings": (4, COUNT[1]), "seed": SEED, "batch_size": COUNT})
        if self.trainings % 2:
            raise ValueError(
                f"trainings={self.trainings} must be even: two at a time leave out a half of the people and the others"
            )
        name, _, size = self.data.partition(":")
        if name != "fictional":
            raise ValueError(
                f"data={self.data!r}: exact memorization takes the training of the model itself, and only those of "
                "embedded worlds are known; give fictional:tiny or fictional, or ask `llm-unlearn run plan` for proxies"
            )
        build_world(size or "small")

    @property
    def size(self) -> str:
        """Of the world."""
        return self.data.partition(":")[2] or "small"


@dataclass
class MemorizationRun:
    """The trainings of one command, and what follows from them.

    Attributes:
        worker: number of this process among those that share the trainings.
    """

    arguments: MemorizationArguments
    worker: int = 0
    _seconds: list[float] = field(init=False, default_factory=list)

    @cached_property
    def trainings(self) -> SubsetTrainings:
        """What trains and scores."""
        return SubsetTrainings(self.arguments.size, self.arguments.batch_size)

    @property
    def output(self) -> Path:
        """The folder of everything."""
        return Path(self.arguments.output_dir)

    @cached_property
    def subsets(self) -> list[list[str]]:
        """The people whom each training leaves out, pair after pair."""
        pairs, people = range(self.arguments.trainings // 2), self.trainings.people
        return [half for pair in pairs for half in complementary_halves(people, pair, self.arguments.seed)]

    @cached_property
    def bases(self) -> list[list[str]]:
        """The same of the bases, which exact values know nothing of."""
        return [*complementary_halves(self.trainings.people, "base", self.arguments.seed)]

    def planned(self) -> dict[str, tuple[list[str], int]]:
        """Name of each training -> whom it leaves out, and its seed."""
        seed = self.arguments.seed
        planned = {"original": ([], seed)}
        planned |= {f"base-{k}": (out, seed + BASE_SEEDS + k) for k, out in enumerate(self.bases)}
        return planned | {f"subset-{k:03d}": (out, seed + 1 + k) for k, out in enumerate(self.subsets)}

    def run(self) -> dict[str, Any]:
        """Train what is not there yet, and compare.

        Returns:
            {"people": names, "trainings": how many halves, "exact": {"by_row" and "by_person": [{"value",
            "standard_error"}]}, "proxies": {name: one number a row or None}, "correlations": {proxy, or `HALVES`:
            {"rows", "rows_of_a_kind" (both sides less the mean of the kind of question) and "people": as
            `rank_correlation` returns it}}, "probability": {"with", "without", "original", "original_retrained"},
            "seconds"}; people in the order of "people", rows in that of the world's retain90 and forget10.
        """
        planned = self.planned()
        tasks = {(name,): self._task(name, *how) for name, how in planned.items()}
        done = {name: found for (name,), found in share(tasks, self.worker, self._say(len(tasks))).items()}
        return self._compared(done)

    def _task(self, name: str, left_out: list[str], seed: int) -> Callable[[bool], dict | None]:
        key = ["memorization", name, seed, left_out, digest_of(self.trainings.described())]

        def compute() -> dict:
            started = time.monotonic()
            if name == "original":
                found = self.trainings.original(seed)
            else:
                found = self.trainings.without(left_out, seed, name)
            return {**found, "seconds": round(time.monotonic() - started, 2)}

        file = self.output / "trainings" / f"{name}.json"
        return lambda wait: remember(file, key, compute, wait=wait)

    def _say(self, tasks: int) -> Callable[[tuple, dict], None]:
        def say(task: tuple, outcome: dict) -> None:
            self._seconds.append(outcome["seconds"])
            done = len(self._seconds)
            left = timedelta(seconds=round((tasks - done) * sum(self._seconds) / done))
            more = f", about {left} left for one process" if left else ""
            probability = np.mean(outcome["probability"])
            words = f"{done} of {tasks}{more}: {task[0]}: answer probability {probability:.3f} over all rows"
            console.print(escape(words), soft_wrap=True)

        return say

    def _compared(self, done: Mapping[str, dict]) -> dict[str, Any]:
        people = self.trainings.people
        of_row = np.array([people.index(name) for name in self.trainings.scored["person"]])
        of_person = np.eye(len(people))[of_row]
        of_person /= of_person.sum(0)  # (rows, people): means over a person's rows
        scores = np.array([done[f"subset-{k:03d}"]["probability"] for k in range(len(self.subsets))])
        with_person = np.array([[name not in out for name in people] for out in self.subsets])
        included = with_person[:, of_row]
        by_row, by_person = (
            memorization_by_subsets(*sides) for sides in ((scores, included), (scores @ of_person, with_person))
        )
        probability = np.array(done["original"]["probability"])
        base = np.where(
            [people[i] in self.bases[0] for i in of_row], *(done[f"base-{k}"]["probability"] for k in (0, 1))
        )
        proxies = {
            GAIN: memorization_gain(probability, base),
            MARGIN: np.array(done["original"]["margin"], float),
            ALONE: probability,
            CONFIDENCE: np.array(done["original"]["confidence"]),
            DIVERGENCE: np.array(done["original"]["divergence"]),
        }
        halves = [np.isin(np.arange(len(scores)) // 2 % 2, half) for half in (0, 1)]  # every second pair
        exact = [memorization_by_subsets(scores[half], included[half]).values for half in halves]
        pairs = {name: (values, by_row.values) for name, values in proxies.items()} | {HALVES: tuple(exact)}
        return {
            "people": people,
            "trainings": len(self.subsets),
            "exact": {"by_row": _listed(by_row), "by_person": _listed(by_person)},
            "proxies": {name: [None if v != v else v for v in values.tolist()] for name, values in proxies.items()},
            "correlations": {name: self._correlations(sides, of_row) for name, sides in pairs.items()},
            "probability": {
                "with": float(scores[included].mean()),
                "without": float(scores[~included].mean()),
                "original": float(probability.mean()),
                "original_retrained": done["original"]["kept_by_retraining"],
            },
            "seconds": round(sum(one["seconds"] for one in done.values()), 2),
        }

    def _correlations(self, sides: tuple[np.ndarray, np.ndarray], of_row: np.ndarray) -> dict[str, dict[str, Any]]:
        kinds = np.unique(self.trainings.scored["attribute"], return_inverse=True)[1]
        of_kind = [side - _means(side, kinds)[kinds] for side in sides]
        of_people = [_means(side, of_row) for side in sides]
        return {
            "rows": rank_correlation(*sides, of_row)._asdict(),
            "rows_of_a_kind": rank_correlation(*of_kind, of_row)._asdict(),
            "people": rank_correlation(*of_people, range(len(self.trainings.people)))._asdict(),
        }


def _listed(found: Any) -> list[dict[str, float | None]]:
    return [
        {"value": value, "standard_error": None if error != error else error}
        for value, error in zip(found.values.tolist(), found.errors.tolist(), strict=True)
    ]


def _means(values: np.ndarray, of_row: np.ndarray) -> np.ndarray:
    """Means over the rows of each person (or kind) that have a value; NaN where none has."""
    has_one = np.isfinite(values)
    sums = np.bincount(of_row, np.where(has_one, values, 0.0))
    counts = np.bincount(of_row, has_one)
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def memorization(description: str, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure exact memorization and its proxies; prints, writes and returns {"config", and `MemorizationRun.run`}.

    Writes memorization.json and memorization.png under `output_dir`, and each training's scores under trainings/.

    Raises:
        InputError: arguments that cannot be used.
    """
    prepare_process()
    worker = become_worker()
    (arguments,) = parse_arguments((MemorizationArguments,), argv, description=description)
    check_output_dir(arguments.output_dir)
    run = MemorizationRun(arguments, worker)
    if arguments.dry_run:
        _show_dry_run(run)
        return {}
    if len(run.trainings.people) < 2:
        raise InputError(f"data={arguments.data!r} has fewer than two people; nobody can be left out")
    found = {"config": arguments_to_dict(arguments)} | run.run()
    if worker:
        return found
    write_json(run.output / "memorization.json", found)
    memorization_figure(found, run.output / "memorization.png")
    print_memorization(found, run.output)
    return found


def _show_dry_run(run: MemorizationRun) -> None:
    console.print(yaml.safe_dump(arguments_to_dict(run.arguments), sort_keys=False), markup=False)
    trainings = run.trainings
    words = f"{len(trainings.scored)} rows about {len(trainings.people)} people are scored; a person is left out as a "
    console.print(words + "whole, with all rows that name them", markup=False, soft_wrap=True)
    total = 0
    for name, (left_out, seed) in run.planned().items():
        steps = trainings.steps(left_out)
        total += steps
        console.print(f"{name}: seed {seed}, without {len(left_out)} people, {steps} steps", markup=False)
    console.print(f"in all {total} steps", markup=False)
