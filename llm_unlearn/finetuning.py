"""The plain supervised loop: it teaches the embedded models their world, and it is the attacker's relearning."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import get_scheduler

from llm_unlearn.answers import forward_answers
from llm_unlearn.data.collators import RETAIN, EncodedRow, pad_rows
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.errors import DivergenceError, InputError


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
            batch_rows = [rows[i] for i in order[start : start + batch_size]]
            answer_tokens = sum(label != IGNORED for row in batch_rows for label in row["labels"])
            for similar_rows in _by_length(batch_rows):
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
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            if after_step is not None:
                after_step(step)
            if step == steps:
                break
    model.eval()


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
