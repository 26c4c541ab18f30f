"""A fresh adapter on a model, on the modules that were meant."""

from __future__ import annotations

import copy

from peft import PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import PreTrainedModel

from llm_unlearn.errors import InputError, as_input_errors
from llm_unlearn.files.run_files import absolute
from llm_unlearn.models.linear_maps import linear_names


def with_adapter(model: PreTrainedModel, peft_config: PeftConfig) -> PeftModel:
    """`model` with a fresh adapter; without `target_modules`, on every linear map of the blocks.

    Raises:
        InputError: the model has an adapter already, or none of its modules is called as `target_modules` says.
    """
    if isinstance(model, PeftModel):
        raise InputError(
            "model already carries an adapter; pass peft_config=None to train it further, or merge it first"
        )
    wanted = getattr(peft_config, "target_modules", None)
    peft_config = copy.copy(peft_config)
    if wanted in (None, "all-linear"):  # whatever the family calls its projections; never the output layer
        # PEFT would adapt all layers with "all-linear", whatever layers_to_transform says.
        some_layers = getattr(peft_config, "layers_to_transform", None) is not None
        peft_config.target_modules = linear_names(model) if some_layers else "all-linear"
    elif not isinstance(wanted, str):
        names = [name for name, _ in model.named_modules()]
        for one in wanted:
            if not any(name == one or name.endswith(f".{one}") for name in names):
                known = ", ".join(linear_names(model))
                raise InputError(f"target_modules: {one!r} is no module of the model; choose from {known}")
    peft_config.task_type = peft_config.task_type or "CAUSAL_LM"
    if getattr(model, "is_quantized", False):  # what is not quantized (norms, embeddings) computes in float32
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # the Trainer sees to that
    with as_input_errors(ValueError):
        return remember_base(get_peft_model(model, peft_config))


def remember_base(model: PeftModel) -> PeftModel:
    """The model itself; saved, its adapters name the base that they are for: a folder from wherever it is looked at, a
    model from the hub with the commit that it was loaded at."""
    commit = getattr(model.get_base_model().config, "_commit_hash", None)
    for config in model.peft_config.values():
        if config.base_model_name_or_path:
            config.base_model_name_or_path = absolute(config.base_model_name_or_path)
        config.revision = config.revision or commit
    return model
