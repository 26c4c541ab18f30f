"""Runs that several processes share: each trains alone, and what one has done the others find in its file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from accelerate.utils import parse_flag_from_env

from llm_unlearn.errors import InputError


def share(
    tasks: Mapping[tuple, Callable[[bool], dict | None]],
    worker: int = 0,
    finished: Callable[[tuple, dict], None] = lambda name, outcome: None,
) -> dict[tuple, dict]:
    """The outcome of every task: first those that no process is at, then the others'.

    Args:
        tasks: name -> a function that computes or remembers (`outcomes.remember`); its argument says whether to wait
            for another process that is at it, without which its answer is then None.
        worker: number of this process.
        finished: is told every outcome as soon as it is there.
    """
    done: dict[tuple, dict] = {}
    names = [*tasks]
    start = worker * 7 % max(1, len(names))  # workers begin apart; where exactly does not matter
    for wait in (False, True):
        for name in names[start:] + names[:start]:
            if name not in done and (outcome := tasks[name](wait)) is not None:
                done[name] = outcome
                finished(name, outcome)
    return done


def become_worker() -> int:
    """Leave the group of processes that a launcher made: each trains alone, on its own GPU; returns its number.

    Runs are shared through files (`outcomes.remember`), not gradients: so k processes do k runs at a time.

    Raises:
        InputError: the launcher is to shard models.
    """
    for name in ("FSDP", "DEEPSPEED"):
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            raise InputError(
                f"{name}: each process trains alone here, and nothing can be sharded; start with "
                "recipes/accelerate/multi_gpu.yaml"
            )
    number, local = int(os.environ.get("RANK", "0")), os.environ.get("LOCAL_RANK")
    if local is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(local)] if visible else local
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    return number
