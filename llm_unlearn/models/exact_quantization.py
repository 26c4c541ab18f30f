"""4-bit weights by their table, where bitsandbytes' own kernel de-quantizes them wrongly.

A 4-bit weight is an index into a table of 16 values, and blocks of 64 weights, counted through the whole matrix, share
a scale. The kernel for processors with AVX-512 counts whole blocks within each row instead, so that rows whose width
is no multiple of 64 get other blocks' scales: values are wrong, and nothing is said (widths that are no multiple of 16
take another path, which is right). Read in the source of bitsandbytes 0.50 (`dequantizeBlockwise4bitCpu`).

This module needs bitsandbytes, an optional extra: import it where weights are quantized.
"""

from __future__ import annotations

import copy
import functools
import logging

import bitsandbytes
import torch
from bitsandbytes.functional import QuantState
from torch import Tensor, nn

logger = logging.getLogger(__name__)


def exact_where_kernels_are_wrong(model: nn.Module) -> nn.Module:
    """The model itself, whose 4-bit linear maps compute by the table where the library's kernel would be wrong.

    Every map's weights are de-quantized once by the library and once by the table. Where they differ by more than
    rounding, forward and backward of that map go by the table from then on, and one warning says of how many; elsewhere
    nothing changes. So results are the same on every processor. What is checked is the kernel of the device on which
    the model is now. Not mended is what reads such weights past the map itself, as PEFT's merging into a quantized base
    and DoRA do.
    """
    maps = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    wrong = [layer for layer in maps if not _kernel_is_right(layer)]
    for layer in wrong:
        layer.__class__ = ExactLinear4bit  # its parent's attributes, device moves, copies and state dict remain
    if wrong:
        widths = ", ".join(str(width) for width in sorted({layer.in_features for layer in wrong}))
        _warn_once(
            f"bitsandbytes {bitsandbytes.__version__} de-quantizes 4-bit weights wrongly on this machine in "
            f"{len(wrong)} of {len(maps)} linear maps (input width {widths}): these compute by their table in PyTorch "
            "instead, which is exact and slower; do not merge an adapter into them, but into the whole base"
        )
    return model


@functools.cache
def _warn_once(message: str) -> None:
    """An attack quantizes every model in two such formats, and the words would be the same each time."""
    logger.warning(message)


def dequantized(packed: Tensor, state: QuantState, dtype: torch.dtype) -> Tensor:
    """Weights in 4 bits as numbers: the table's value times the scale of the weight's block, in float32, then `dtype`.

    Args:
        packed: two weights a byte (the first in the higher four bits), in any shape and type.
        state: table, scales (in 8 bits themselves after double quantization), block size, and the shape to return.
    """
    scales = state.absmax
    if state.nested:
        scales = _scaled(state.state2.code[scales.int()], state.state2.absmax, state.state2.blocksize) + state.offset
    pairs = torch.stack([state.code.repeat_interleave(16), state.code.repeat(16)], 1)  # of each byte, both values
    pair = packed.contiguous().view(torch.uint8).flatten().int()
    values = pairs.index_select(0, pair).flatten()[: state.shape.numel()]
    return _scaled(values, scales.float(), state.blocksize).view(state.shape).to(dtype)


def _scaled(values: Tensor, scales: Tensor, blocksize: int) -> Tensor:
    """Each value times the scale of its block; the last block may be shorter."""
    return values * scales.repeat_interleave(blocksize)[: values.numel()]


def _kernel_is_right(layer: bitsandbytes.nn.Linear4bit) -> bool:
    """Whether the library de-quantizes these weights as the table does, to rounding, in each type that is computed in.

    The forward asks for the type that is computed in, the backward for the type that was quantized.
    """
    packed = layer.weight.data
    for dtype in {layer.weight.quant_state.dtype, layer.compute_dtype or layer.weight.quant_state.dtype}:
        state = copy.copy(layer.weight.quant_state)
        state.dtype = dtype
        computed, exact = bitsandbytes.functional.dequantize_4bit(packed, state), dequantized(packed, state, dtype)
        # Equal bit for bit on the CPUs seen so far; else scales of double quantization, sums, may be rounded otherwise.
        if not torch.equal(computed, exact) and not torch.allclose(
            computed.float(), exact.float(), rtol=2 * torch.finfo(dtype).eps, atol=1e-5 * float(exact.abs().max())
        ):
            return False
    return True


class ExactLinear4bit(bitsandbytes.nn.Linear4bit):
    """A `Linear4bit` that computes by the table, in the types of its parent, and keeps no whole weights either."""

    def forward(self, x: Tensor) -> Tensor:
        bitsandbytes.nn.modules.fix_4bit_weight_quant_state_from_module(self)
        dtype = self.compute_dtype or x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return _MatmulByTable.apply(x.to(dtype), self.weight.data, bias, self.weight.quant_state).to(x.dtype)


class _MatmulByTable(torch.autograd.Function):
    """x W^T + b for packed W, which is de-quantized once more for the gradient of x: stored, it would fill memory."""

    @staticmethod
    def forward(ctx, x: Tensor, packed: Tensor, bias: Tensor | None, state: QuantState) -> Tensor:
        ctx.packed, ctx.state = packed, state
        return nn.functional.linear(x, dequantized(packed, state, x.dtype), bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        of_x, of_bias = None, None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ dequantized(ctx.packed, ctx.state, ctx.state.dtype).to(gradient.dtype)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.flatten(0, -2).sum(0)
        return of_x, None, of_bias, None
