"""Methods that change what a network says about forget rows: gradient ascent, GradDiff, NPO and the task vector.

Sources: gradient ascent (Jang et al. 2023, arXiv 2210.01504), GradDiff (Maini et al. 2024, arXiv 2401.06121), NPO
(Zhang et al. 2024, arXiv 2404.05868), task vector (Ilharco et al. 2023, arXiv 2212.04089); in this setting: Kodama et
al. 2026, arXiv 2602.19215.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from llm_unlearn.combinatorial.formulas import batches, generators
from llm_unlearn.combinatorial.network import Network, adam, copy_where, cross_entropy, descend, true_positive_rate
from llm_unlearn.combinatorial.subject import FORGOTTEN, LEARNING_RATE, Step, Subject, Unlearned, until_forgotten
from llm_unlearn.training.losses import npo_loss

BETA = 0.1  # of NPO
SMALL_LEARNING_RATE = 0.002  # with which NPO takes about as many steps as with the attribution regularizer at weight 1
TASK_VECTOR_STEPS, TASK_VECTOR_RATE = 50, 0.002
TASK_VECTOR_SCALES = [tenths / 10 for tenths in range(1, 201)]


def gradient_ascent(subject: Subject) -> Unlearned:
    """Climb the loss of the forget rows, and look at nothing else."""
    return until_forgotten(subject, lambda network, step: -cross_entropy(network, step.forget))


def graddiff(subject: Subject) -> Unlearned:
    """Gradient ascent with the loss of retain rows beside it."""
    return until_forgotten(
        subject, lambda network, step: cross_entropy(network, step.retain) - cross_entropy(network, step.forget)
    )


def npo(subject: Subject, learning_rate: float = LEARNING_RATE) -> Unlearned:
    """NPO with the loss of retain rows beside it."""
    return until_forgotten(subject, npo_and_retain(subject.original), learning_rate)


def npo_and_retain(reference: Network) -> Callable[[Network, Step], torch.Tensor]:
    """The loss of NPO on forget rows plus that of retain rows, (networks,); `reference`: before unlearning."""

    def loss(network: Network, step: Step) -> torch.Tensor:
        with torch.no_grad():
            before = F.logsigmoid(reference.logits(step.forget.inputs))
        now = F.logsigmoid(network.logits(step.forget.inputs))
        return npo_loss(now, before, BETA, reduction="none").mean(1) + cross_entropy(network, step.retain)

    return loss


def task_vector(subject: Subject) -> Unlearned:
    """Fine-tune on the forget rows and walk the other way, as far (in tenths) as it takes to forget them."""
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
