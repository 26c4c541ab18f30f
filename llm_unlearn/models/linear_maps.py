"""The linear maps inside a model's blocks, found by structure: Q, K, V, O, gate, up, down or the family's own names."""

from __future__ import annotations

from collections.abc import Sequence

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm_unlearn.errors import InputError
from llm_unlearn.models.loading import check_block, decoder_layers


def linear_modules(
    model: nn.Module, layers: Sequence[int] | None = None, modules: Sequence[str] | None = None
) -> dict[str, nn.Module]:
    """Linear maps inside the transformer blocks by name, an adapted one as a whole (base and adapter together).

    Args:
        layers: only those of these blocks (negative numbers count from the last); by default of all.
        modules: only those with these last names, as `q_proj` in `0.self_attn.q_proj`; by default all.

    Raises:
        InputError: the blocks hold no linear map, or none of those asked for.
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

    blocks = decoder_layers(model)
    for number, block in enumerate(blocks):
        visit(block, str(number))
    if not found:
        raise InputError(f"{type(model).__name__} has no linear maps inside its transformer blocks")
    if layers is not None:
        for number in layers:
            if not -len(blocks) <= number < len(blocks):
                raise InputError(f"layers: the model has no block {number}; it has blocks 0 to {len(blocks) - 1}")
        wanted = {str(number % len(blocks)) for number in layers}
        found = {name: module for name, module in found.items() if name.partition(".")[0] in wanted}
    if modules is not None:
        names = dict.fromkeys(name.rpartition(".")[2] for name in found)
        for name in modules:
            if name not in names:
                raise InputError(f"modules: no linear map is called {name!r}; choose from {', '.join(names)}")
        found = {name: module for name, module in found.items() if name.rpartition(".")[2] in modules}
    return found


def linear_names(model: nn.Module) -> list[str]:
    """The last names of all linear maps in the blocks: q_proj, ... (GPT-2 calls its class Conv1D)."""
    blocks = decoder_layers(model).named_modules()
    return list(dict.fromkeys(name.rpartition(".")[2] for name, one in blocks if isinstance(one, (nn.Linear, Conv1D))))


def train_only_blocks(model: PreTrainedModel | PeftModel, last: int, count: int) -> None:
    """Freeze all but `count` blocks, of which `last` is the last: of an adapter what is not in them, of a whole model
    all but the last linear map of each, which is the down-projection.

    Raises:
        InputError: there is no such block.
    """
    check_block(model, last, "layer")
    maps = linear_modules(model, range(max(0, last - count + 1), last + 1))
    if not isinstance(model, PeftModel):
        maps = {name.partition(".")[0]: module for name, module in maps.items()}
    trained = {id(parameter) for module in maps.values() for parameter in module.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in trained)
