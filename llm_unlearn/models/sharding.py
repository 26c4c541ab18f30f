"""Sharded training: whole models beside it, whole models saved by it, and what its checkpoints depend on.

`transformers` remembers for the whole process that weights are sharded. Under ZeRO 3 it then shards every model at
loading (`zero3_init_flag: false` changes nothing there), and generation waits for the other processes after each token;
under FSDP with `cpu_ram_efficient_loading` only the first process reads weights. The reference before training and the
attacks after it need whole models, in each process by itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from peft import PeftModel
from torch import nn
from transformers import Trainer
from transformers.integrations import deepspeed

from llm_unlearn.errors import InputError

_READ_ONCE = "FSDP_CPU_RAM_EFFICIENT_LOADING"


@contextlib.contextmanager
def whole_models() -> Iterator[None]:
    """Within this scope models are loaded and run as in a process alone, whatever was asked for in training."""
    known = deepspeed._hf_deepspeed_config_weak_ref  # that is all that `is_deepspeed_zero3_enabled` looks at
    read_once = os.environ.pop(_READ_ONCE, None)
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = known
        if read_once is not None:
            os.environ[_READ_ONCE] = read_once


def is_partitioned(model: nn.Module) -> bool:
    """Whether DeepSpeed ZeRO 3 has taken the parameters apart."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def check_saves_whole(trainer: Trainer) -> None:
    """Refuse, before training, settings under which `save_model` writes no model that anyone can load.

    Raises:
        InputError: the launcher's setting, and what to give instead.
    """
    if trainer.is_fsdp_enabled:
        kind = str(trainer.accelerator.state.fsdp_plugin.state_dict_type)
        if "FULL_STATE_DICT" not in kind:
            raise InputError(
                f"fsdp_state_dict_type={kind.rpartition('.')[2]} would save shards instead of a model; set it to "
                "FULL_STATE_DICT, as in recipes/accelerate/fsdp2.yaml"
            )
    if _zero_stage(trainer) == 3 and not isinstance(trainer.model, PeftModel):
        zero = trainer.accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
        if not zero.get("stage3_gather_16bit_weights_on_model_save"):
            raise InputError(
                "zero3_save_16bit_model=false would save shards instead of a model; set it to true, as in "
                "recipes/accelerate/zero3.yaml (stage3_gather_16bit_weights_on_model_save in DeepSpeed's own file)"
            )


def sharding_of(trainer: Trainer) -> str | None:
    """What a checkpoint must have in common with the run that goes on from it; None: the model is whole."""
    if trainer.is_fsdp_enabled:
        return "FSDP"  # on any number of processes: its checkpoints hold the whole state
    if stage := _zero_stage(trainer):
        return f"DeepSpeed ZeRO {stage} on {trainer.accelerator.num_processes} processes"
    return None


def _zero_stage(trainer: Trainer) -> int:
    return trainer.accelerator.state.deepspeed_plugin.zero_stage if trainer.is_deepspeed_enabled else 0
