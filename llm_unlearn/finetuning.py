"""The plain supervised loop: it teaches the embedded models their world, and it is the attacker's relearning."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import get_scheduler

from llm_unlearn.data.collators import RETAIN, EncodedRow, pad_rows
from llm_unlearn.errors import DivergenceError, InputError
from llm_unlearn.modeling import forward_answers


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
    row_orders: Callable[[int], list[int]] | None = None,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Train `model` in place on the answers of `rows` with AdamW; the loss is the token mean of the batch.

    Args:
        rows: encoded rows (input_ids, labels).
        row_orders: epoch -> order of row numbers; by default a new seeded shuffle every epoch.
        after_step: called with the number of steps taken, after each.

    Raises:
        InputError: `rows` is empty.
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
    model.train()
    step, epoch = 0, 0
    while step < steps:
        order = row_orders(epoch)
        epoch += 1
        for start in range(0, len(order), batch_size):
            batch = pad_rows([rows[i] for i in order[start : start + batch_size]], pad_token_id=0)
            batch["roles"] = torch.full((len(batch["labels"]),), RETAIN)
            answers = forward_answers(model, {name: value.to(device) for name, value in batch.items()})
            loss = -answers.token_logps.mean()
            if not loss.isfinite():
                raise DivergenceError(
                    f"fine-tuning diverged at step {step + 1}; lower its learning rate {learning_rate:g}"
                )
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            if after_step is not None:
                after_step(step)
            if step == steps:
                break
    model.eval()
