"""What of a model stands outside its blocks (embeddings, final norm, output head), kept as it is while blocks train."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from llm_unlearn.errors import InputError
from llm_unlearn.models.loading import decoder_layers


def outside_blocks(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights outside the blocks, by name; one that is tied to another once."""
    inside = {id(parameter) for parameter in decoder_layers(model).parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in inside}


def train_blocks_alone(model: PreTrainedModel | PeftModel) -> None:
    """Freeze what stands outside the blocks.

    Raises:
        InputError: an adapter was made to train some of it.
    """
    outside = outside_blocks(model)
    trained = [name for name, parameter in outside.items() if parameter.requires_grad]
    if trained and isinstance(model, PeftModel):
        raise InputError(
            f"the adapter trains {trained[0]}, and what stands outside the blocks must stay as it is; leave it out of "
            "target_modules, modules_to_save and trainable tokens"
        )
    for parameter in outside.values():
        parameter.requires_grad_(False)


@contextlib.contextmanager
def unchanged_outside_blocks(model: nn.Module) -> Iterator[None]:
    """Within this scope nothing outside the blocks may change; checksums of every bit before and after say so.

    Raises:
        RuntimeError: something did, such as by a callback; it says what.
    """
    before = _checksums(model)
    yield
    if changed := [name for name, checksum in _checksums(model).items() if before.get(name) != checksum]:
        raise RuntimeError(
            f"{', '.join(changed)}: changed while the model was trained, and stands outside the blocks, where nothing "
            "may change; look for a callback or an optimizer that does it"
        )


def _checksums(model: nn.Module) -> dict[str, int]:
    """CRC-32 of each weight."""
    weights = {name: parameter.detach().cpu().contiguous() for name, parameter in outside_blocks(model).items()}
    return {name: zlib.crc32(weight.flatten().view(torch.uint8).numpy()) for name, weight in weights.items()}
