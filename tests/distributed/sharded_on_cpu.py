"""FSDP2 on CPUs, where Accelerate has it for GPUs alone: PyTorch itself shards over gloo as well."""

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType


def allow_fsdp_on_cpu() -> None:
    """Let `fsdp=True` have its usual effect in this process."""
    original = AcceleratorState.__init__

    def __init__(self, *arguments, fsdp_plugin=None, **keywords):
        original(self, *arguments, fsdp_plugin=fsdp_plugin, **keywords)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = __init__
