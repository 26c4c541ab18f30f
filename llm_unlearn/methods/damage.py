"""Damage before repair: matrices shrunk and blurred, everywhere or where the forget rows' influence lies.

W <- (1 - a) W + 0.1 a N, N drawn uniformly as Xavier initialization has it. What is not trained again afterwards is
gone, whoever it belongs to: the price of damage is what the repair rows do not cover. Where the model was fine-tuned
from another one that is at hand, W <- (1 - a) W + a W_base takes part of the fine-tuning alone.

Source: UNDO, Lee et al. 2025, "Distillation Robustifies Unlearning", arXiv 2506.06278, eq. 1 (a 0.1 to 0.8, b 0.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from peft import PeftModel
from torch import nn

from llm_unlearn.data.collators import FORGET, EncodedRow, UnlearnCollator
from llm_unlearn.errors import InputError
from llm_unlearn.methods.attribution import capture_outputs, influence
from llm_unlearn.models.answers import forward_answers
from llm_unlearn.models.linear_maps import linear_modules
from llm_unlearn.models.scoring import evaluation_mode

NOISE = 0.1  # b
SCOPES = ("all", "influence", "random")
NOISY = "noise"  # what matrices are moved towards where no base is given


@torch.no_grad()
def damage(
    model: nn.Module,
    strength: float,
    seed: int,
    neurons: Mapping[str, torch.Tensor] | None = None,
    base: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Shrink and blur the matrices of a model, in place; equal seeds draw the same noise, on any device.

    Args:
        strength: a, from 0 to 1.
        neurons: linear map (`linear_modules`) -> which of its outputs, (width,) bool: only these rows of its matrix are
            damaged, and nothing else. Default: every matrix of the model, embeddings included, whole.
        base: weights by name of a model of the same shapes (`weights_for`): the model's own are moved towards these in
            place of noise; without `neurons`, vectors as well.
    """
    generator = torch.Generator().manual_seed(seed)

    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def damaged(weight: torch.Tensor) -> torch.Tensor:
        if base is not None:
            return torch.lerp(weight, base[names[id(weight)]].to(weight), strength)
        bound = (6 / sum(weight.shape[-2:])) ** 0.5  # a mixture's experts are one stack of matrices
        noise = (2 * torch.rand(weight.shape, generator=generator) - 1) * bound
        return (1 - strength) * weight + (NOISE * strength * noise).to(weight)

    if neurons is None:
        for parameter in model.parameters():  # a tied matrix once
            if parameter.dim() >= 2 or base is not None:
                parameter.copy_(damaged(parameter))
        return
    maps = linear_modules(model)
    for name, outputs in neurons.items():
        weight, outputs = maps[name].weight, outputs.to(maps[name].weight.device)
        rows = outputs[:, None] if isinstance(maps[name], nn.Linear) else outputs[None]  # Conv1D has them in columns
        weight.copy_(torch.where(rows, damaged(weight), weight))


def weights_for(model: nn.Module, other: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """The weights of another model by the names that `model` has for them.

    Args:
        other: an adapter is put into its base first.
        name: what an error calls it.

    Raises:
        InputError: its weights have other names or shapes.
    """
    weights = (other.merge_and_unload() if isinstance(other, PeftModel) else other).state_dict()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for weight in shapes | given:
        if shapes.get(weight) != given.get(weight):
            raise InputError(
                f"{name}: {weight} has the shape {given.get(weight, 'of no weight')} there and "
                f"{shapes.get(weight, 'of no weight')} in the model; give a checkpoint of the same model"
            )
    return weights


def influential_neurons(
    model: nn.Module,
    forget: Sequence[EncodedRow],
    retain: Sequence[EncodedRow],
    share: float,
    pad_token_id: int,
    batch_size: int = 16,
) -> dict[str, torch.Tensor]:
    """Of every linear map the outputs, (width,) bool, that forget rows need most beside retain rows.

    Each has the influence |h g| of its output h, g the gradient of the mean log-odds of the answer tokens, summed over
    positions and rows; ranked is the influence on forget rows as a share of that on both.

    Args:
        share: of each map's outputs, from 0 to 1; at least one is chosen.
        retain: as many rows as are forgotten, evenly spread, are looked at.
    """
    step = max(1, len(retain) // len(forget))
    of_forget, of_retain = (
        _influences(model, rows, pad_token_id, batch_size) for rows in (forget, retain[::step][: len(forget)])
    )
    chosen = {}
    for name, own in of_forget.items():
        ratio = own / (own + of_retain[name]).clamp(min=torch.finfo(own.dtype).tiny)
        best = ratio.topk(max(1, round(share * len(ratio)))).indices
        chosen[name] = torch.zeros(len(ratio), dtype=torch.bool).index_fill(0, best.cpu(), True)
    return chosen


def random_neurons(like: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """As many outputs of each map, drawn at random: the control."""
    generator = torch.Generator().manual_seed(seed)
    return {name: outputs[torch.randperm(len(outputs), generator=generator)] for name, outputs in like.items()}


def _influences(
    model: nn.Module, rows: Sequence[EncodedRow], pad_token_id: int, batch_size: int
) -> dict[str, torch.Tensor]:
    """Linear map -> sum of |h g| over rows and positions, (width,)."""
    modules, collate, device = linear_modules(model), UnlearnCollator(pad_token_id), next(model.parameters()).device
    totals: dict[str, torch.Tensor] = {}
    with evaluation_mode(model), capture_outputs(modules) as passes:
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            batch = collate([{"forget": {**row, "role": FORGET, "index": i}} for i, row in enumerate(part)])
            answers = forward_answers(model, {name: value.to(device) for name, value in batch.items()})
            pairs = influence(answers, passes.pop(), "log_odds")
            for name, (h, g) in zip(modules, pairs, strict=True):
                totals[name] = totals.get(name, 0) + (h * g).abs().sum((0, 1)).detach().float()
    return totals
