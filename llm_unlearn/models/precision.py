"""Training models that are stored in 16 bits: weights in float32, matrix products in 16 bits.

A bfloat16 weight of 0.02 has steps of 1e-4: AdamW's updates at learning rates of 1e-5 and less are rounded away, and an
attacker who keeps the weights so is weak for no reason of the model's. Here weights and optimizer have 32 bits, and
only what a forward computes with them has 16, as in the model that is stored (mixed precision, Micikevicius et al.
2018, arXiv 1710.03740).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

HALVES = (torch.bfloat16, torch.float16)


def stored_dtype(model: nn.Module) -> torch.dtype:
    """The 16-bit type that some of the model's weights are in (the first of them), or float32."""
    return next((parameter.dtype for parameter in model.parameters() if parameter.dtype in HALVES), torch.float32)


def with_master_weights(model: PreTrainedModel, stored: torch.dtype) -> PreTrainedModel:
    """Change `model` in place: weights in float32, and matrix products in `autocast_dtype` of its device.

    Args:
        model: without an adapter.
        stored: the type that the model is stored in; of one in 32 bits, nothing is changed.
    """
    if stored in HALVES:
        model.float()
        model.stored_dtype = stored
        # A bound method: copies of the model get one of their own.
        model.forward = _autocast_forward(type(model)).__get__(model)
    return model


def without_mixed_precision(model: PreTrainedModel | PeftModel) -> PreTrainedModel | PeftModel:
    """The model itself without the autocast that Accelerate put around one that was trained in mixed precision.

    Else it would be scored in another precision than it is attacked in, and than it has once it is saved.
    """
    if vars(model).pop("_original_forward", None) is not None:
        del model.forward
    return model


def autocast_dtype(stored: torch.dtype, device: torch.device | str) -> torch.dtype:
    """What a model with float32 weights computes its matrix products in, stored as it is.

    bfloat16 where it is stored in 16 bits of either kind (in float16, gradients of 1e-8 and less would be zero),
    and the device is a CPU or a GPU that has bfloat16; else float32.
    """
    kind = torch.device(device).type
    has_bfloat16 = kind == "cpu" or (kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.bfloat16 if stored in HALVES and has_bfloat16 else torch.float32


def computing_dtype(model: nn.Module) -> torch.dtype:
    """What the matrix products of a model are rounded to, whatever type its weights have."""
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    stored = getattr(bare, "stored_dtype", None)
    return bare.dtype if stored is None else autocast_dtype(stored, bare.device)


@functools.cache
def _autocast_forward(model_class: type) -> Any:
    """The class's forward, of the same signature, under autocast."""

    @functools.wraps(model_class.forward)
    def forward(self, *args, **kwargs):
        dtype = autocast_dtype(self.stored_dtype, self.device)
        # No cache: one that outlives an optimizer step has the weights from before it.
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
            return model_class.forward(self, *args, **kwargs)

    return forward
