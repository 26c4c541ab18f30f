"""When has a run diverged? NaN or infinite gradients, or answers that are far less likely than blind guesses.

Gradient ascent has no minimum: left alone it goes on after everything is forgotten, and takes the language with it. So
each step is looked at before its update, and a run past all bounds ends while there is something to keep.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch.distributed.tensor import DTensor

from llm_unlearn.errors import DivergenceError
from llm_unlearn.training.config import UnlearnConfig

if TYPE_CHECKING:
    from llm_unlearn.training.trainer import UnlearnTrainer

# Times the negative log-likelihood of a blind guess, log(vocabulary), per answer token. Retained answers at three times
# that are wrong with confidence; forgotten ones may be, but far beyond that logits grow and nothing else changes.
FORGET_BOUND, RETAIN_BOUND = 5.0, 3.0


def nll_bounds(args: UnlearnConfig, vocabulary: int) -> dict[str, float]:
    """Answer negative log-likelihood per token (nats) above which a run has diverged, by part of the loss."""
    guess = math.log(vocabulary)
    forget, retain = (
        factor * guess if bound is None else bound
        for bound, factor in ((args.max_forget_nll, FORGET_BOUND), (args.max_retain_nll, RETAIN_BOUND))
    )
    return {"forget": forget, "retain": retain, "general": retain}


def count_not_finite(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    """How many of this process's gradients (or shards of them) hold NaN or infinity, a scalar."""
    shards = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in parameters if p.grad is not None]
    shards = [shard for shard in shards if shard.numel()]
    return (~torch.stack(torch._foreach_norm(shards)).isfinite()).sum() if shards else torch.tensor(0)


def why_diverged(not_finite: float, nll: dict[str, float], args: UnlearnConfig, vocabulary: int) -> str | None:
    """What says that a step must not be taken, and what to change; None: nothing does.

    Args:
        not_finite: how many gradients hold NaN or infinity.
        nll: negative log-likelihood per answer token of this step's rows: forget, retain, general.
    """
    lower = f"lower learning_rate (now {args.learning_rate:g}), raise retain_weight or set a stop_at_forget_* threshold"
    if not_finite:
        return f"the loss diverged (NaN or infinite gradient); {lower}"
    bounds = nll_bounds(args, vocabulary)
    for name, value in nll.items():
        if not value <= bounds[name]:  # NaN is past any bound
            bound = "max_forget_nll" if name == "forget" else "max_retain_nll"
            return (
                f"{name} answers have a negative log-likelihood of {value:.3g} nats per token, above {bound} "
                f"({bounds[name]:.3g}; a blind guess has {math.log(vocabulary):.3g}); {lower}"
            )
    return None


def raise_if_diverged(trainer: UnlearnTrainer, not_finite: torch.Tensor) -> None:
    """Raise DivergenceError where a step of any process says that the run has diverged; all processes find the same.

    Args:
        not_finite: how much of this process's gradients or loss is NaN or infinite.
    """
    by_part = trainer.log_sums.step_nll
    seen = trainer.accelerator.reduce(torch.stack([not_finite, *by_part.values()]), "sum").tolist()
    nll = dict(zip(by_part, seen[1:], strict=True))
    vocabulary = trainer.model.config.get_text_config().vocab_size
    if reason := why_diverged(seen[0], nll, trainer.args, vocabulary):
        raise DivergenceError(f"step {trainer.state.global_step + 1}: {reason}")
