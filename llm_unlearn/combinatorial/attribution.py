"""Attribution-regularized unlearning: NPO that may not hide behind neurons that speak against the answer.

Source: Yang et al. 2025, "Erase or Hide?", arXiv 2509.22263, in the neuron form of `llm_unlearn.methods.ssiuu`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from llm_unlearn.combinatorial.formulas import Rows, generators, random_orders
from llm_unlearn.combinatorial.network import Network
from llm_unlearn.combinatorial.output_methods import npo_and_retain
from llm_unlearn.combinatorial.subject import (
    Step,
    Subject,
    Unlearned,
    repeated,
    unlearning_batches,
    until_forgotten,
)


def attribution_regularized(subject: Subject, weights: Sequence[float], shuffled: bool) -> list[Unlearned]:
    """NPO with retain rows and the attribution regularizer, one result for each of its weights.

    Args:
        shuffled: the control: every neuron is given the influence gradient of another one.
    """
    networks, hidden = subject.original.b1.shape
    order = torch.arange(hidden).expand(networks, -1)
    if shuffled:
        order = random_orders(generators(subject.seeds, "shuffled neurons"), hidden)
    every = subject.times(len(weights))
    weight_of, order_of = torch.tensor(weights).repeat_interleave(networks), repeated(order, len(weights))
    backbone = npo_and_retain(every.original)

    def loss(network: Network, step: Step) -> torch.Tensor:
        penalty = negative_influence(network, step.forget.inputs, order_of)
        return backbone(network, step) + weight_of * penalty

    steps = (
        Step(*(Rows(*(repeated(part, len(weights)) for part in rows)) for rows in step))
        for step in unlearning_batches(subject)
    )
    found, taken = until_forgotten(every, loss, steps=steps)
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
