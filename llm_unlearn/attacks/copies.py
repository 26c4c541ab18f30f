"""Copies of a model for attackers: as it is stored, to be judged, or with float32 weights, to be trained."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from llm_unlearn.models.adapters import merged, untied
from llm_unlearn.models.loading import decoder_layers
from llm_unlearn.models.precision import stored_dtype, with_master_weights, without_mixed_precision


def merged_copy(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """A copy in the type that the model is stored in; an adapter that it has is merged, as an attacker would."""
    copied = _copy(model)
    return merged(copied) if isinstance(copied, PeftModel) else copied


def attackable_copy(model: PreTrainedModel, lora_r: int | None = None, seed: int = 0) -> PreTrainedModel | PeftModel:
    """A copy that can be trained; an adapter that the model has is merged, as an attacker would.

    What is trained is in float32. Where the model is stored in 16 bits, forwards still compute in 16: see
    `precision.with_master_weights`. Under a new adapter, weights in bfloat16 stay as they are stored.

    Args:
        lora_r: rank of a new adapter on every linear map of the blocks (scaling 2, as the recipes have it); None: every
            weight is trained.
        seed: of the new adapter's first weights, which change nothing before the first step.
    """
    attacked, stored = _copy(model), stored_dtype(model)
    # Gradients would leave the range of float16, also those of an adapter on it.
    in_float32 = stored == torch.float16 or (stored == torch.bfloat16 and lora_r is None)
    if in_float32:
        attacked.float()  # before an adapter is merged, whose small values 16 bits would round away
    if isinstance(attacked, PeftModel):
        attacked = merged(attacked)
    if in_float32:
        attacked = with_master_weights(attacked, stored)
    if lora_r is None:
        return attacked.requires_grad_(True)
    adapter = LoraConfig(r=lora_r, lora_alpha=2 * lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):  # adapters get their first weights on the processor
        torch.default_generator.manual_seed(seed)
        return get_peft_model(attacked, adapter)


def only_trainable(attacked: PreTrainedModel, part: str) -> PreTrainedModel:
    """An attackable copy, changed in place, of which one part alone is trained.

    Args:
        part: "head", the output head, or "blocks", the transformer blocks with their norms. A head that is the input
            embedding, too (tied), becomes a tensor of its own first: else every block would be given other inputs.
    """
    attacked.requires_grad_(False)
    trained = {"head": lambda: untied(attacked).get_output_embeddings(), "blocks": lambda: decoder_layers(attacked)}
    trained[part]().requires_grad_(True)
    return attacked


def _copy(model: PreTrainedModel | PeftModel) -> PreTrainedModel | PeftModel:
    for module in model.modules():
        # What PEFT made a tied layer of (`ensure_weight_tying`) and no longer needs: tensors that cannot be copied.
        if isinstance(module, BaseTunerLayer) and getattr(module, "kwargs", None):
            module.kwargs.pop("tied_adapter", None)
    return without_mixed_precision(copy.deepcopy(model))
