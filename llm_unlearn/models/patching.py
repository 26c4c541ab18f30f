"""Activation patching: what a model says with hidden states of another model, or of another text, in its own place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from llm_unlearn.data.collators import pad_rows
from llm_unlearn.models.answers import answer_token_logps, narrowed_logits
from llm_unlearn.models.loading import decoder_layers
from llm_unlearn.models.scoring import evaluation_mode


@dataclass(frozen=True)
class Asked:
    """A text and the tokens in it that are asked for: from `start` to before `end`."""

    ids: tuple[int, ...]
    start: int
    end: int

    @property
    def value(self) -> tuple[int, ...]:
        """These tokens."""
        return self.ids[self.start : self.end]

    @property
    def before(self) -> range:
        """The positions from which they are said."""
        return range(self.start - 1, self.end - 1)


@torch.no_grad()
def log_prob_drops(
    original: PreTrainedModel, asked: Sequence[Asked], states: torch.Tensor, batch_size: int = 16
) -> np.ndarray:
    """How much less probable a value is to the original with another model's states after a block: (blocks, rows).

    Mean over a value's tokens, in nats. Of L blocks, only those after the replaced one run again: (L - 1) / 2 forward
    passes of each text, and one without replacement.

    Args:
        states: (blocks, values' tokens in all, width), what replaces those at the positions before each token.
    """
    parts = states.split([len(one.before) for one in asked], 1)
    batches = range(0, len(asked), batch_size)
    with evaluation_mode(original), narrowed_logits(original) as logits_only_at:
        drops = [
            _batch_drops(original, asked[i : i + batch_size], torch.cat(parts[i : i + batch_size], 1), logits_only_at)
            for i in batches
        ]
    return np.concatenate(drops, 1)


def _batch_drops(
    original: PreTrainedModel, batch: Sequence[Asked], states: torch.Tensor, logits_only_at: Callable
) -> np.ndarray:
    device = next(original.parameters()).device
    blocks = decoder_layers(original)
    rows = pad_rows([{"input_ids": [*one.ids], "labels": [*one.ids]} for one in batch], 0)
    inputs = {name: rows[name].to(device) for name in ("input_ids", "attention_mask")}
    labels = torch.tensor([token for one in batch for token in one.value], device=device)
    wanted = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    for place, one in enumerate(batch):
        wanted[place, one.before] = True

    def mean_logps() -> np.ndarray:
        logits_only_at(wanted)
        logps = answer_token_logps(original(**inputs, use_cache=False).logits, labels).double()
        return np.array([float(of_row.mean()) for of_row in logps.split([len(one.value) for one in batch])])

    with _outputs(blocks) as outputs:
        whole = mean_logps()
    drops = []
    for layer, output in outputs.items():
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[wanted] = states[layer].to(hidden)
        with _resumed_after(blocks[: layer + 1], (hidden, *output[1:]) if isinstance(output, tuple) else hidden):
            drops.append(whole - mean_logps())
    return np.stack(drops)


@contextlib.contextmanager
def _outputs(blocks: nn.ModuleList) -> Iterator[dict[int, Any]]:
    """Within this scope, what each block last gave, in the form it has."""
    outputs: dict[int, Any] = {}

    def keep(layer: int, _block: nn.Module, _inputs: tuple, output: Any) -> None:
        outputs[layer] = output

    hooks = [block.register_forward_hook(partial(keep, layer)) for layer, block in enumerate(blocks)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _resumed_after(blocks: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Within this scope these blocks do not run, and all give this output."""
    replaced = [block.__dict__.get("forward") for block in blocks]  # Accelerate, too, replaces forward on the instance
    for block in blocks:
        block.forward = lambda *_, **__: output
    try:
        yield
    finally:
        for block, forward in zip(blocks, replaced, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward
