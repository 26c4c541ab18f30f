"""What the blocks of a model put out at chosen tokens of texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from llm_unlearn.data.collators import pad_rows
from llm_unlearn.models.answers import block_outputs, narrowed_logits
from llm_unlearn.models.loading import decoder_layers
from llm_unlearn.models.scoring import evaluation_mode


@torch.no_grad()
def states_at(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], batch_size: int = 16
) -> torch.Tensor:
    """The outputs of all blocks, (blocks, positions in all, width), text after text, in float32 on the CPU.

    One forward pass of each text.

    Args:
        texts: token ids. positions: one or more of each text.
    """
    device = next(model.parameters()).device
    blocks = range(len(decoder_layers(model)))
    by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]), reverse=True)
    states: dict[int, torch.Tensor] = {}
    with evaluation_mode(model), narrowed_logits(model) as logits_only_at, block_outputs(model, blocks) as outputs:
        for start in range(0, len(texts), batch_size):
            numbers = by_length[start : start + batch_size]
            rows = pad_rows([{"input_ids": [*texts[n]], "labels": [*texts[n]]} for n in numbers], 0)
            ids, mask = rows["input_ids"].to(device), rows["attention_mask"].to(device)
            logits_only_at(torch.arange(ids.shape[1], device=device).expand_as(ids) == 0)  # the fewest there can be
            model(input_ids=ids, attention_mask=mask, use_cache=False)
            for place, number in enumerate(numbers):
                chosen = [outputs[block][place, [*positions[number]]] for block in blocks]
                states[number] = torch.stack([part.float().cpu() for part in chosen])
    return torch.cat([states[number] for number in range(len(texts))], 1)
