"""Two-layer networks, many at once: one batched tensor program trains all seeds.

logit = w2 . relu(W1 x + b1) + b2. Networks share nothing, so the sum of their losses gives each its own gradient, and
the optimizers of `torch.optim`, which work weight by weight, train each as if it were alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from llm_unlearn.combinatorial.formulas import Rows

MakeOptimizer = Callable[[list[torch.Tensor]], torch.optim.Optimizer]


class Network(NamedTuple):
    """Weights of several networks.

    Attributes:
        w1: (networks, hidden, inputs); b1: (networks, hidden).
        w2: (networks, hidden); b2: (networks,).
    """

    w1: torch.Tensor
    b1: torch.Tensor
    w2: torch.Tensor
    b2: torch.Tensor

    def hidden(self, inputs: torch.Tensor) -> torch.Tensor:
        """(networks, rows, inputs) -> outputs of the hidden neurons, (networks, rows, hidden)."""
        return torch.baddbmm(self.b1[:, None], inputs, self.w1.mT).relu()

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """(networks, rows, inputs) -> (networks, rows)."""
        return self.read_out(self.hidden(inputs))

    def read_out(self, hidden: torch.Tensor) -> torch.Tensor:
        """Outputs of hidden neurons -> logits: (networks, rows, hidden) -> (networks, rows)."""
        return torch.baddbmm(self.b2[:, None, None], hidden, self.w2[..., None]).squeeze(2)

    def flat(self) -> torch.Tensor:
        """All weights of a network in a row: (networks, weights)."""
        return torch.cat([part.flatten(1) if part.dim() > 1 else part[:, None] for part in self], dim=1)


def random_networks(generators: Sequence[torch.Generator], hidden: int, inputs: int) -> Network:
    """A new network for each generator, initialized as `torch.nn.Linear`: uniform in +-1/sqrt(fan in)."""
    shapes = (((hidden, inputs), inputs), ((hidden,), inputs), ((hidden,), hidden), ((), hidden))
    drawn = [[_uniform(shape, fan_in, generator) for shape, fan_in in shapes] for generator in generators]
    return Network(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))


def _uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> torch.Tensor:
    return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(fan_in)


def cross_entropy(network: Network, rows: Rows) -> torch.Tensor:
    """Binary cross-entropy, mean over the rows of each network: (networks,)."""
    return F.binary_cross_entropy_with_logits(network.logits(rows.inputs), rows.labels, reduction="none").mean(1)


@torch.no_grad()
def true_positive_rate(network: Network, rows: torch.Tensor) -> torch.Tensor:
    """Share of rows called positive: (networks, rows, inputs) -> (networks,)."""
    return (network.logits(rows) > 0).float().mean(1)


def sgd(learning_rate: float) -> MakeOptimizer:
    """Plain gradient descent."""
    return partial(torch.optim.SGD, lr=learning_rate)


def adam(learning_rate: float) -> MakeOptimizer:
    """Adam; fused, since a step of these small networks is otherwise mostly the optimizer's own calls."""
    return partial(torch.optim.Adam, lr=learning_rate, fused=True)


def descend(
    network: Network,
    batches: Iterable,
    loss: Callable[[Network, Any], torch.Tensor],
    make_optimizer: MakeOptimizer,
    stop: Callable[[Network], torch.Tensor] | None = None,
) -> tuple[Network, torch.Tensor]:
    """Minimize a loss with a step for each batch; `network` stays as it is.

    Args:
        loss: of the networks and a batch, a value for each network, (networks,).
        stop: which networks are done, (networks,) bool: asked after each step; a network stays what it was at its
            first yes.

    Returns:
        The networks, and the steps that each took, (networks,).
    """
    network = Network(*(part.detach().clone().requires_grad_() for part in network))
    optimizer = make_optimizer(list(network))
    steps = torch.zeros(len(network.b2), dtype=torch.long)
    active = torch.ones_like(steps, dtype=torch.bool)
    stopped = Network(*(part.detach().clone() for part in network))
    for batch in batches:
        optimizer.zero_grad()
        loss(network, batch).sum().backward()
        optimizer.step()
        steps += active
        if stop is not None:
            with torch.no_grad():
                now = active & stop(network)
                stopped = copy_where(now, network, stopped)
            active &= ~now
            if not active.any():
                break
    return copy_where(active, Network(*(part.detach() for part in network)), stopped), steps


def copy_where(which: torch.Tensor, network: Network, other: Network) -> Network:
    """The first networks where `which`, (networks,) bool, and the others elsewhere."""
    pairs = zip(network, other, strict=True)
    return Network(*(torch.where(which.view(-1, *(1,) * (one.dim() - 1)), one, two) for one, two in pairs))
