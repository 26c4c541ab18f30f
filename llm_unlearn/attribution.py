"""Neuron influence: capture, attribute, regularize.

A neuron is one scalar of the output of a linear map inside a transformer block (Q, K, V, O, gate, up, down or the
family's equivalents, found by structure). Its influence on a row is A = h * g, with h its output and g the gradient of
the row's mean answer log-probability with respect to h: positive where the neuron speaks for the answer, negative
where it suppresses it.

Source: Yang et al., "Erase or Hide?", arXiv 2509.22263, with the log-probability in place of the probability, which is
almost constant (and so has no gradient) on a memorized answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from llm_unlearn.errors import InputError
from llm_unlearn.modeling import Answers, decoder_layers


def linear_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Linear maps inside the transformer blocks by name, an adapted one as a whole (base and adapter together).

    Raises:
        InputError: the blocks hold no linear map.
    """
    found: dict[str, nn.Module] = {}

    def visit(module: nn.Module, name: str) -> None:
        is_linear = isinstance(module, nn.Linear | Conv1D)
        if is_linear or (
            isinstance(module, BaseTunerLayer) and isinstance(module.get_base_layer(), nn.Linear | Conv1D)
        ):
            found[name] = module
            return
        for child_name, child in module.named_children():
            visit(child, f"{name}.{child_name}")

    for number, block in enumerate(decoder_layers(model)):
        visit(block, str(number))
    if not found:
        raise InputError(f"{type(model).__name__} has no linear maps inside its transformer blocks")
    return found


@contextlib.contextmanager
def capture_outputs(model: nn.Module) -> Iterator[list[list[torch.Tensor]]]:
    """Within this scope, the outputs of `linear_modules` are kept: one list per pass through the model's blocks.

    Take the list right after the forward: under activation checkpointing the hooks fire again on recomputation. Holds
    one tensor (rows, length, width) per linear map, all of which the ordinary backward keeps anyway.
    """
    modules = list(linear_modules(model).values())
    passes: list[list[torch.Tensor]] = []

    def keep(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        if not passes or len(passes[-1]) == len(modules):
            passes.append([])
        passes[-1].append(output)

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def influence(answers: Answers, outputs: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs (h, g) for every captured output that the parameters can change; both have the output's shape.

    `answers` are those of the rows that were captured. g is the gradient of the *sum* over rows of each row's mean
    answer log-probability, so each row of g belongs to that row alone. It is a constant: no second derivative is taken.
    """
    outputs = [output for output in outputs if output.requires_grad]
    mean_logps = answers.logps / answers.lengths
    gradients = torch.autograd.grad(mean_logps.sum(), outputs, retain_graph=True)
    return [(h, g.detach()) for h, g in zip(outputs, gradients, strict=True)]


def negative_influence_penalty(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Sum over neurons and positions of relu(-h g)^2 for each row, (rows,): what hiding adds and erasing does not."""
    return sum((torch.relu(-h.float() * g.float()) ** 2).sum((1, 2)) for h, g in pairs)


def shuffled_gradients(
    pairs: list[tuple[torch.Tensor, torch.Tensor]], seed: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The pairs with g permuted over the neurons of each linear map: a control of the same size, about other neurons.

    Args:
        seed: with it, the permutations are the same in every step.
    """
    generator = torch.Generator().manual_seed(seed)
    return [(h, g[..., torch.randperm(g.shape[-1], generator=generator).to(g.device)]) for h, g in pairs]


@torch.no_grad()
def influence_sums(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of positive and of negative influence over neurons and positions for each row: two tensors (rows,)."""
    products = [(h * g).float() for h, g in pairs]
    positive = sum(product.clamp(min=0).sum((1, 2)) for product in products)
    negative = sum(product.clamp(max=0).sum((1, 2)) for product in products)
    return positive, negative
