"""Seconds, operations and peak memory of a block of training steps."""

from __future__ import annotations

import time
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import Trainer, TrainerCallback

# PyTorch's counter knows the attention kernels of GPUs only.
ATTENTION_FLOPS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(
        *shapes[:4]
    ),
}


class StepClock(TrainerCallback):
    """Seconds of a run from before its first batch to after its last log line, without set-up and end."""

    def __init__(self, trainer: Trainer):
        self.device, self.seconds = trainer.args.device, 0.0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.started = self._now()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.seconds = self._now() - self.started


def run_block(trainer: Trainer, steps: int | None = None) -> float:
    """Train for so many steps (default: `block_steps`) and return the seconds they took."""
    clock, block_steps = StepClock(trainer), trainer.args.max_steps
    trainer.args.max_steps = steps or block_steps
    trainer.add_callback(clock)
    try:
        trainer.train()
    finally:
        trainer.args.max_steps = block_steps
        trainer.remove_callback(clock)
    return clock.seconds


class AllocatedBytes(TorchDispatchMode):
    """Within this scope, `peak` is the largest number of bytes that tensors allocated in it held at one time.

    Exact whatever the allocator does and whatever ran before, unlike the size of the process; scratch memory inside an
    operation is not seen (on a CPU: some hundred bytes of a step, by PyTorch's profiler).
    """

    def __init__(self):
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in _tensors((args, kwargs)):
            self._see(tensor, new=False)  # it was there before this scope
        output = func(*args, **(kwargs or {}))
        for tensor in _tensors(output):
            self._see(tensor, new=True)
        return output

    def _see(self, tensor: torch.Tensor, new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes() if new else 0
        weakref.finalize(storage, self._forget, key, size)
        self.held += size
        self.peak = max(self.peak, self.held)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def _tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def count_block(trainer: Trainer) -> dict[str, float]:
    """What does not depend on the machine's load: operations of a step, and the peak of a block in bytes.

    Operations are those of all matrix products, those inside attention included. The peak is what is allocated beyond
    that which is held between steps (weights, the optimizer's state); on a GPU, from PyTorch's own statistics.
    """
    on_gpu = trainer.args.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_FLOPS) as flops, AllocatedBytes() as allocated:
        run_block(trainer)
    peak = torch.cuda.max_memory_allocated() - before if on_gpu else allocated.peak
    return {"flops": flops.get_total_flops() / trainer.args.max_steps, "peak_bytes": peak}
