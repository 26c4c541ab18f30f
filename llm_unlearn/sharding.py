"""Whole models in processes that train a sharded one.

`transformers` remembers for the whole process that weights are sharded. Under ZeRO 3 it then shards every model at
loading (`zero3_init_flag: false` changes nothing there), and generation waits for the other processes after each token;
under FSDP with `cpu_ram_efficient_loading` only the first process reads weights. The reference before training and the
attacks after it need whole models, in each process by itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from torch import nn
from transformers.integrations import deepspeed

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
