"""A fresh adapter on a model, on the modules that were meant."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from peft import PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel

from llm_unlearn.errors import InputError, as_input_errors
from llm_unlearn.files.run_files import absolute
from llm_unlearn.models.files import check_adapter_kind
from llm_unlearn.models.linear_maps import linear_names

CHANGING_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")  # what `init_lora_weights` may begin with in PEFT


def with_adapter(model: PreTrainedModel, peft_config: PeftConfig) -> PeftModel:
    """`model` with a fresh adapter; without `target_modules`, on every linear map of the blocks.

    Raises:
        InputError: the model has an adapter already, none of its modules is called as `target_modules` says, or the
            adapter is of a kind that cannot be merged into weights, or begins by changing them.
    """
    check_adapter_kind(type(peft_config).__name__, peft_config.peft_type, peft_config.task_type)
    start = getattr(peft_config, "init_lora_weights", None)
    if isinstance(start, str) and start.startswith(CHANGING_STARTS):
        raise InputError(
            f"init_lora_weights={start!r} moves a part of the base weights into the adapter, so that without it the "
            "model is not the one before training, which losses and attacks compare with; choose true or 'gaussian'"
        )
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


@contextlib.contextmanager
def adapter_removed(model: PeftModel) -> Iterator[None]:
    """Within this scope the model is the one under the adapter."""
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, was_trainable in trainable:  # switched on again, PEFT would train an adapter that was frozen
            parameter.requires_grad_(was_trainable)


def remember_base(model: PeftModel) -> PeftModel:
    """The model itself; saved, its adapters name the base that they are for: a folder from wherever it is looked at, a
    model from the hub with the commit that it was loaded at."""
    commit = getattr(model.get_base_model().config, "_commit_hash", None)
    for config in model.peft_config.values():
        if config.base_model_name_or_path:
            config.base_model_name_or_path = absolute(config.base_model_name_or_path)
        config.revision = config.revision or commit
    return model


def merged(model: PeftModel) -> PreTrainedModel:
    """The model under an adapter with the adapter in its weights; computes what `model` did, which is used up.

    Where input and output embeddings are one tensor (tied), an adapter on one end would change both, and one on both
    ends would count twice. So each end gets a tensor of its own first; they are one again where merging left them
    equal, and untied in the model and its configuration where not.
    """
    base = model.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    if not any(isinstance(end, (BaseTunerLayer, AuxiliaryTrainingWrapper)) for end in ends):
        return model.merge_and_unload()
    _give_own_tensors(base)
    was_tied = _set_tied(base, False)  # of a tied model PEFT would warn
    whole = model.merge_and_unload()
    for target, source in list(whole.all_tied_weights_keys.items()):
        if torch.equal(whole.get_parameter(target), whole.get_parameter(source)):
            _assign(whole, target, whole.get_parameter(source))
        else:
            del whole.all_tied_weights_keys[target]
    _set_tied(whole, was_tied and bool(whole.all_tied_weights_keys))
    return whole


def untied(model: PreTrainedModel) -> PreTrainedModel:
    """The model, changed in place: input and output embeddings that are one tensor become two, of equal values."""
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
        for target, source in list(model.all_tied_weights_keys.items()):
            if model.get_parameter(target) is not model.get_parameter(source):
                del model.all_tied_weights_keys[target]
        _set_tied(model, False)
    return model


def _give_own_tensors(model: nn.Module) -> None:
    """Every parameter of several modules becomes one for each of them."""
    seen = set()
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if id(parameter) in seen:
            _assign(model, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
        seen.add(id(parameter))


def _assign(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, parameter)


def _set_tied(model: PreTrainedModel, value: bool) -> bool:
    """Writes into the configuration whether embeddings are tied; returns what stood there."""
    before = model.config.get_text_config().tie_word_embeddings
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = value
    return before
