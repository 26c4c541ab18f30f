"""What is to forget, the rows it is shown, and when it has forgotten.

Forget rows fulfill the target clause; retain rows are rows on which it never holds, with their true labels. A forget
loss has no floor, so training on one stops each network as soon as it calls at most 5 % of forget rows positive: all
methods are compared at the same output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from llm_unlearn.combinatorial.formulas import Rows, Task, batches, generators
from llm_unlearn.combinatorial.network import Network, descend, sgd, true_positive_rate

FORGOTTEN = 0.05  # share of forget rows still called positive at which a method stops
LEARNING_RATE = 0.02  # of gradient descent on a forget loss
MOST_STEPS = 500

Unlearned = tuple[Network, torch.Tensor]  # and the steps taken, (networks,); of a task vector, its scale


@dataclass(frozen=True)
class Subject:
    """What is to forget.

    Attributes:
        task: a formula for each network.
        original: the trained networks.
        seeds: one for each network.
        forget_rows: (networks, rows, inputs), on which it is judged whether a network has forgotten.
        batch_size: forget rows of a step, and as many retain rows.
    """

    task: Task
    original: Network
    seeds: Sequence[int]
    forget_rows: torch.Tensor
    batch_size: int = 256

    def times(self, times: int) -> Subject:
        """The same networks several times over, the whole group after itself."""
        return Subject(
            Task(repeated(self.task.clauses, times), self.task.inputs),
            Network(*(repeated(part, times) for part in self.original)),
            list(self.seeds) * times,
            repeated(self.forget_rows, times),
            self.batch_size,
        )


class Step(NamedTuple):
    """What a step of unlearning sees."""

    forget: Rows
    retain: Rows


def until_forgotten(
    subject: Subject,
    loss: Callable[[Network, Step], torch.Tensor],
    learning_rate: float = LEARNING_RATE,
    steps: Iterator[Step] | None = None,
) -> Unlearned:
    """Gradient descent on a loss until the target is forgotten; `steps` are what `unlearning_batches` gives."""
    return descend(
        subject.original,
        unlearning_batches(subject) if steps is None else steps,
        loss,
        sgd(learning_rate),
        stop=lambda network: true_positive_rate(network, subject.forget_rows) <= FORGOTTEN,
    )


def unlearning_batches(subject: Subject) -> Iterator[Step]:
    """As many forget as retain rows a step, up to `MOST_STEPS` steps."""
    forget, retain = (
        batches(subject.task, mixture, subject.batch_size, MOST_STEPS, generators(subject.seeds, purpose))
        for mixture, purpose in ((subject.task.forget, "forget"), (subject.task.retain, "retain"))
    )
    return (Step(*pair) for pair in zip(forget, retain, strict=True))


def repeated(tensor: torch.Tensor, times: int) -> torch.Tensor:
    """All networks' values `times` times over: (networks, ...) -> (times x networks, ...)."""
    return tensor.repeat(times, *(1,) * (tensor.dim() - 1))
