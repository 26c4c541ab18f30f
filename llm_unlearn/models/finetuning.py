"""The plain supervised loop: it teaches the embedded models their world, and it is the attacker's relearning."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import get_scheduler

from llm_unlearn.data.collators import RETAIN, EncodedRow, pad_rows
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.errors import DivergenceError, InputError
from llm_unlearn.models.answers import forward_answers

logger = logging.getLogger(__name__)

SAVE_SECONDS = 120  # between two times that a long training is written down
WATCHED_WEIGHTS = 100_000  # by which lost updates are estimated: enough for shares of 1e-4


def finetune(
    model: nn.Module,
    rows: Sequence[EncodedRow],
    *,
    learning_rate: float,
    steps: int,
    batch_size: int,
    seed: int,
    scheduler: str = "constant",
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    micro_batch_size: int | None = None,
    activation_checkpointing: bool = False,
    row_orders: Callable[[int], list[int]] | None = None,
    after_step: Callable[[int], None] | None = None,
    progress_file: Path | None = None,
) -> float:
    """Train `model` in place on the answers of `rows` with AdamW; the loss is the token mean of the batch.

    Weights change in the type that they have: a model in 16 bits needs `precision.with_master_weights` first.

    Args:
        rows: encoded rows (input_ids, labels).
        micro_batch_size: rows that are run at once, by default the whole batch. The gradient is that of the batch.
        activation_checkpointing: keep only what enters each block, and compute the block again in the backward.
        row_orders: epoch -> order of row numbers; by default a new seeded shuffle every epoch.
        after_step: called with the number of steps taken, after each.
        progress_file: where the training is written down every `SAVE_SECONDS`, and goes on from if it is there, to the
            same end. Whoever gives it sees to it that it is of this very training, and calls `forget_progress` once the
            trained model is saved.

    Returns:
        The share of updates that were lost in the last step: see `_lost_updates`.

    Raises:
        InputError: `rows` is empty, or the model has no activation checkpointing.
        DivergenceError: the loss became NaN or infinite.
    """
    if not rows:
        raise InputError("there is nothing to fine-tune on: no rows")
    if row_orders is None:

        def row_orders(epoch: int) -> list[int]:
            return torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    schedule = get_scheduler(scheduler, optimizer, warmup_steps, steps)
    device = next(model.parameters()).device
    checkpointing_here = activation_checkpointing and not model.is_activation_checkpointing
    if checkpointing_here:
        _checkpoint_activations(model)
    model.train()
    progress = _Progress(progress_file, model, optimizer, schedule)
    done, step, epoch, lost = progress.steps_done(), 0, 0, 0.0
    if done and after_step is not None:
        after_step(done)
    while step < steps:
        order = row_orders(epoch)
        epoch += 1
        for start in range(0, len(order), batch_size):
            if step < done:
                step += 1
                continue
            batch_rows = [rows[i] for i in order[start : start + batch_size]]
            answer_tokens = sum(label != IGNORED for row in batch_rows for label in row["labels"])
            for similar_rows in _micro_batches(batch_rows, micro_batch_size or batch_size):
                batch = pad_rows(similar_rows, pad_token_id=0)
                batch["roles"] = torch.full((len(similar_rows),), RETAIN)
                answers = forward_answers(model, {name: value.to(device) for name, value in batch.items()})
                loss = -answers.token_logps.sum() / answer_tokens
                if not loss.isfinite():
                    raise DivergenceError(
                        f"fine-tuning diverged at step {step + 1}; lower its learning rate {learning_rate:g}"
                    )
                loss.backward()
            nn.utils.clip_grad_norm_(parameters, max_grad_norm)
            if step + 1 == steps:
                lost = _lost_updates(optimizer)
            else:
                optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            if after_step is not None:
                after_step(step)
            if step == steps:
                break
            progress.save_now_and_then(step)
    if checkpointing_here:
        model.activation_checkpointing_disable()
    model.eval()
    return lost


class _Progress:
    """An unfinished training on the disk: weights, optimizer, schedule and steps done; nothing without a file."""

    def __init__(self, file: Path | None, model: nn.Module, *states: Any):
        self._file, self._states, self._saved = file, (model, *states), time.monotonic()

    def steps_done(self) -> int:
        """Take up what was written, if anything was."""
        if self._file is None or not self._file.is_file():
            return 0
        saved = torch.load(self._file, map_location="cpu", weights_only=True)
        for part, state in zip(self._states, saved["states"], strict=True):
            part.load_state_dict(state)
        torch.set_rng_state(saved["random_state"])  # of dropout
        return saved["steps"]

    def save_now_and_then(self, steps: int) -> None:
        if self._file is None or time.monotonic() - self._saved < SAVE_SECONDS:
            return
        self._saved = time.monotonic()
        written = {"steps": steps, "states": [part.state_dict() for part in self._states]}
        unfinished = _unfinished(self._file)
        try:
            torch.save(written | {"random_state": torch.get_rng_state()}, unfinished)
            unfinished.replace(self._file)
        except (OSError, RuntimeError) as error:  # of a full disk torch says the latter; nothing is lost by it yet
            unfinished.unlink(missing_ok=True)
            logger.warning("training goes on, but cannot be written down in %s for a resumption: %s", self._file, error)


def forget_progress(file: Path | None) -> None:
    """Remove what an unfinished training left, and what a kill left of writing it."""
    for path in () if file is None else (file, _unfinished(file)):
        path.unlink(missing_ok=True)


def _unfinished(file: Path) -> Path:
    return file.with_name(f"{file.name}.unfinished")


def _checkpoint_activations(model: nn.Module) -> None:
    try:
        model.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise InputError(f"activation checkpointing: {error} Train this model without it") from error
    # Transformers lets embeddings require gradients then, which only reentrant checkpointing needs.
    model.disable_input_require_grads()


@torch.no_grad()
def _lost_updates(optimizer: torch.optim.AdamW) -> float:
    """Take a step; of the way that AdamW wants weights to go, the share on which they stayed where they were.

    A weight does not move where its update is less than half of its last digit. Updates count by their size: those of
    weights whose gradients cancel are as small as one likes, and none of them would be missed. Looks at
    `WATCHED_WEIGHTS` of the weights, evenly spread.
    """
    group = optimizer.param_groups[0]
    (beta1, beta2), epsilon, learning_rate = group["betas"], group["eps"], group["lr"]
    stride = -(-sum(parameter.numel() for parameter in group["params"]) // WATCHED_WEIGHTS) | 1  # odd: every column
    before = [parameter.flatten()[::stride].clone() for parameter in group["params"]]
    optimizer.step()
    wanted = lost = 0.0
    for parameter, old in zip(group["params"], before, strict=True):
        if state := optimizer.state.get(parameter):  # else it had no gradient
            mean, square = (state[name].flatten()[::stride].float() for name in ("exp_avg", "exp_avg_sq"))
            mean, square = mean / (1 - beta1 ** int(state["step"])), square / (1 - beta2 ** int(state["step"]))
            update = learning_rate * mean.abs() / (square.sqrt() + epsilon)
            wanted += float(update.sum(dtype=torch.float64))
            lost += float(update[parameter.flatten()[::stride] == old].sum(dtype=torch.float64))
    return lost / wanted if wanted else 0.0


def _micro_batches(rows: list[EncodedRow], size: int) -> list[list[EncodedRow]]:
    """A batch in parts that run one after the other, of `size` rows at most."""
    return [part[start : start + size] for part in _by_length(rows) for start in range(0, len(part), size)]


def _by_length(rows: list[EncodedRow]) -> list[list[EncodedRow]]:
    """A batch as it is, or its short and its long rows apart where that spares a third of the tokens, padding included.

    A few long rows (few-shot prompts) would otherwise have all others padded to their length.
    """
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    lengths = [len(row["input_ids"]) for row in ordered]
    sizes = {cut: cut * lengths[cut - 1] + (len(rows) - cut) * lengths[-1] for cut in range(1, len(rows))}
    cut = min(sizes, key=sizes.__getitem__, default=0)
    if not cut or sizes[cut] > 2 / 3 * len(rows) * lengths[-1]:
        return [rows]
    return [ordered[:cut], ordered[cut:]]
