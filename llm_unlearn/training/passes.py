"""The forwards of a step, each with its backward: one of all rows, unless a method says otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from llm_unlearn.data.collators import PADDING

if TYPE_CHECKING:
    from llm_unlearn.training.trainer import UnlearnTrainer

Batch = dict[str, torch.Tensor]


@dataclass
class Pass:
    """One forward and backward of a micro-batch.

    roles: of the rows that take part. scope: what surrounds it, such as changed parameters.
    """

    roles: Sequence[int]
    scope: AbstractContextManager = field(default_factory=contextlib.nullcontext)


def only_roles(batch: Batch, roles: Sequence[int]) -> Batch:
    """The rows of some roles alone; filler stays, so that every process has a row to run."""
    rows = torch.isin(batch["roles"], batch["roles"].new_tensor([*roles, PADDING]))
    return {name: value[rows] for name, value in batch.items()}


def gradient_of_step(
    trainer: UnlearnTrainer,
    model: nn.Module,
    batches: Iterable[Batch],
    counts: torch.Tensor,
    roles: Sequence[int],
    parameters: Sequence[nn.Parameter],
) -> list[torch.Tensor]:
    """The gradient of the loss on the rows of some roles in the global batch, one tensor for each of `parameters`.

    Args:
        batches: this process's micro-batches of the step. counts: as `compute_loss` takes them.
    """
    model.train()
    unwrapped = trainer.accelerator.unwrap_model(model)  # a wrapped one would reduce gradients of its own accord
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    for batch in batches:
        inputs = trainer._prepare_inputs(only_roles(batch, roles))
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(unwrapped, inputs, num_items_in_batch=counts)
        # A parameter that is in use on one process alone (a mixture's expert) must have a gradient on all.
        torch._foreach_add_(gradients, torch.autograd.grad(loss, parameters, materialize_grads=True))
    # Each process's loss is multiplied by their number, for a wrapped model would take the mean of gradients.
    return [trainer.accelerator.reduce(gradient, "mean") for gradient in gradients]
