"""Ways to make networks forget their target clause, as they are used on language models.

Forget rows fulfill the target clause; retain rows are rows on which it never holds, with their true labels. A forget loss
has no floor, so its methods stop each network as soon as it calls at most 5 % of forget rows positive: all are compared
at the same output. Methods that fit labels run for as many steps as training had.

Sources: gradient ascent (Jang et al. 2023, arXiv 2210.01504), GradDiff (Maini et al. 2024, arXiv 2401.06121), NPO (Zhang
et al. 2024, arXiv 2404.05868), task vector (Ilharco et al. 2023, arXiv 2212.04089), the attribution regularizer (Yang et
al. 2025, arXiv 2509.22263, in the neuron form of `llm_unlearn.methods.ssiuu`); in this setting: arXiv 2602.19215.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from llm_unlearn.combinatorial.formulas import Rows, Task, batches, generators, random_orders, truth_of
from llm_unlearn.combinatorial.network import (
    Network,
    adam,
    copy_where,
    cross_entropy,
    descend,
    random_networks,
    sgd,
    true_positive_rate,
)
from llm_unlearn.losses import npo_loss

FORGOTTEN = 0.05  # share of forget rows still called positive at which a method stops
BETA = 0.1  # of NPO
LEARNING_RATE = 0.02  # of gradient descent on a forget loss
SMALL_LEARNING_RATE = 0.002  # with which NPO takes about as many steps as with the attribution regularizer at weight 1
MOST_STEPS = 500
TASK_VECTOR_STEPS, TASK_VECTOR_RATE = 50, 0.002
TASK_VECTOR_SCALES = [tenths / 10 for tenths in range(1, 201)]

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

    def repeated(self, times: int) -> Subject:
        """The same networks several times over, the whole group after itself."""
        return Subject(
            Task(_repeated(self.task.clauses, times), self.task.inputs),
            Network(*(_repeated(part, times) for part in self.original)),
            list(self.seeds) * times,
            _repeated(self.forget_rows, times),
            self.batch_size,
        )


class Step(NamedTuple):
    """What a step of unlearning sees."""

    forget: Rows
    retain: Rows


def gradient_ascent(subject: Subject) -> Unlearned:
    """Climb the loss of the forget rows, and look at nothing else."""
    return _until_forgotten(subject, lambda network, step: -cross_entropy(network, step.forget))


def graddiff(subject: Subject) -> Unlearned:
    """Gradient ascent with the loss of retain rows beside it."""
    return _until_forgotten(
        subject, lambda network, step: cross_entropy(network, step.retain) - cross_entropy(network, step.forget)
    )


def npo(subject: Subject, learning_rate: float = LEARNING_RATE) -> Unlearned:
    """NPO with the loss of retain rows beside it."""
    return _until_forgotten(subject, _npo_and_retain(subject.original), learning_rate)


def attribution_regularized(subject: Subject, weights: Sequence[float], shuffled: bool) -> list[Unlearned]:
    """NPO with retain rows and the attribution regularizer, one result for each of its weights.

    Args:
        shuffled: the control: every neuron is given the influence gradient of another one.
    """
    networks, hidden = subject.original.b1.shape
    order = torch.arange(hidden).expand(networks, -1)
    if shuffled:
        order = random_orders(generators(subject.seeds, "shuffled neurons"), hidden)
    every = subject.repeated(len(weights))
    weight_of, order_of = torch.tensor(weights).repeat_interleave(networks), _repeated(order, len(weights))
    npo_and_retain = _npo_and_retain(every.original)

    def loss(network: Network, step: Step) -> torch.Tensor:
        penalty = negative_influence(network, step.forget.inputs, order_of)
        return npo_and_retain(network, step) + weight_of * penalty

    steps = (
        Step(*(Rows(*(_repeated(part, len(weights)) for part in rows)) for rows in step)) for step in _batches(subject)
    )
    found, taken = _until_forgotten(every, loss, steps=steps)
    parts = zip(*(part.split(networks) for part in found), strict=True)
    return list(zip((Network(*part) for part in parts), taken.split(networks), strict=True))


def negative_influence(network: Network, inputs: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """The attribution regularizer: sum over neurons of relu(-h g)^2, mean over forget rows: (networks,).

    h is a hidden neuron's output and g = d log p(positive) / dh = (1 - p) w2, held constant: what a neuron says against
    the answer is penalized through its output alone.

    Args:
        inputs: (networks, rows, inputs).
        order: (networks, hidden), the neuron whose g a neuron is given; its own, but for the control.
    """
    hidden = network.hidden(inputs)
    gradient = torch.sigmoid(-network.read_out(hidden))[..., None] * network.w2[:, None]
    gradient = gradient.detach().gather(2, order[:, None].expand_as(gradient))
    return F.relu(-hidden * gradient).square().sum(-1).mean(1)


def task_vector(subject: Subject) -> Unlearned:
    """Fine-tune on the forget rows and walk the other way: the smallest scale (in tenths) at which they are forgotten."""
    rows = batches(
        subject.task,
        subject.task.forget,
        subject.batch_size,
        TASK_VECTOR_STEPS,
        generators(subject.seeds, "task vector"),
    )
    tuned, _ = descend(subject.original, rows, cross_entropy, adam(TASK_VECTOR_RATE))
    found, scales = subject.original, torch.zeros(len(subject.seeds))
    active = torch.ones(len(subject.seeds), dtype=torch.bool)
    for scale in TASK_VECTOR_SCALES:
        moved = Network(*(one - scale * (two - one) for one, two in zip(subject.original, tuned, strict=True)))
        found, scales = copy_where(active, moved, found), torch.where(active, scale, scales)
        active = active & (true_positive_rate(found, subject.forget_rows) > FORGOTTEN)
        if not active.any():
            break
    return found, scales


def fit_labels(
    subject: Subject, learning_rate: float, steps: int, progress: Callable[[int], None]
) -> dict[str, Unlearned]:
    """Fit labels by which the target is false: relabeling, and distillation into a warm and into a fresh student.

    All three see the same rows. Relabeling fine-tunes the original on the labels of the formula without the target. A
    student is given the original's own probabilities instead, and 0 where the target holds; the warm one starts as the
    original, the fresh one from new random weights.
    """
    original, task, networks = subject.original, subject.task, len(subject.seeds)
    fresh = random_networks(generators(subject.seeds, "fresh student"), *original.w1.shape[1:])
    start = Network(*(torch.cat(parts) for parts in zip(original, original, fresh, strict=True)))

    def targets() -> Iterator[Rows]:
        for rows in batches(task, task.all, subject.batch_size, steps, generators(subject.seeds, "labels")):
            holds = truth_of(task.clauses, rows.inputs)[..., 0]
            with torch.no_grad():
                taught = torch.sigmoid(original.logits(rows.inputs)).masked_fill(holds, 0.0)
            relabeled = rows.labels.masked_fill(holds, 0.0)
            progress(1)
            yield Rows(_repeated(rows.inputs, 3), torch.cat([relabeled, taught, taught]))

    found, taken = descend(start, targets(), cross_entropy, adam(learning_rate))
    parts = zip(*(part.split(networks) for part in found), strict=True)
    names = ("relabel", "distill_warm", "distill_fresh")
    return {name: (Network(*part), one) for name, part, one in zip(names, parts, taken.split(networks), strict=True)}


def _until_forgotten(
    subject: Subject,
    loss: Callable[[Network, Step], torch.Tensor],
    learning_rate: float = LEARNING_RATE,
    steps: Iterator[Step] | None = None,
) -> Unlearned:
    return descend(
        subject.original,
        _batches(subject) if steps is None else steps,
        loss,
        sgd(learning_rate),
        stop=lambda network: true_positive_rate(network, subject.forget_rows) <= FORGOTTEN,
    )


def _batches(subject: Subject) -> Iterator[Step]:
    forget, retain = (
        batches(subject.task, mixture, subject.batch_size, MOST_STEPS, generators(subject.seeds, purpose))
        for mixture, purpose in ((subject.task.forget, "forget"), (subject.task.retain, "retain"))
    )
    return (Step(*pair) for pair in zip(forget, retain, strict=True))


def _npo_and_retain(reference: Network) -> Callable[[Network, Step], torch.Tensor]:
    def loss(network: Network, step: Step) -> torch.Tensor:
        with torch.no_grad():
            before = F.logsigmoid(reference.logits(step.forget.inputs))
        now = F.logsigmoid(network.logits(step.forget.inputs))
        return npo_loss(now, before, BETA, reduction="none").mean(1) + cross_entropy(network, step.retain)

    return loss


def _repeated(tensor: torch.Tensor, times: int) -> torch.Tensor:
    return tensor.repeat(times, *(1,) * (tensor.dim() - 1))
