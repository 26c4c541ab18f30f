"""Where a model stands when it has read a question: hidden states at its last token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from llm_unlearn.data.collators import EncodedRow, pad_rows
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.models.answers import block_outputs, narrowed_logits
from llm_unlearn.models.scoring import evaluation_mode


def questions(rows: Sequence[EncodedRow]) -> list[list[int]]:
    """The tokens of each row up to its answer; of plain text, which asks nothing, all of them."""
    lengths = [next(i for i, label in enumerate(row["labels"]) if label != IGNORED) for row in rows]
    return [row["input_ids"][: length if length > 1 else None] for row, length in zip(rows, lengths, strict=True)]


@torch.no_grad()
def question_states(
    model: PreTrainedModel, contexts: Sequence[list[int]], layers: Sequence[int], batch_size: int = 64
) -> dict[int, np.ndarray]:
    """Number of a block -> its output at the last token of each text, (texts, width), in float32.

    Args:
        contexts: token ids of the texts.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(contexts)), key=lambda number: len(contexts[number]))
    found: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
    with (
        evaluation_mode(model),
        narrowed_logits(model) as logits_only_at,
        block_outputs(model, layers) as outputs,
    ):
        for start in range(0, len(order), batch_size):
            batch = [contexts[number] for number in order[start : start + batch_size]]
            rows = pad_rows([{"input_ids": ids, "labels": ids} for ids in batch], 0)
            ids, mask = rows["input_ids"].to(device), rows["attention_mask"].to(device)
            last = torch.tensor([len(one) - 1 for one in batch], device=device)
            logits_only_at(torch.arange(ids.shape[1], device=device) == last[:, None])
            model(input_ids=ids, attention_mask=mask, use_cache=False)
            for layer in layers:
                states = outputs[layer][torch.arange(len(batch), device=device), last]
                found[layer].append(states.float().cpu().numpy())
    back = np.argsort(order)
    return {layer: np.concatenate(states)[back] for layer, states in found.items()}
