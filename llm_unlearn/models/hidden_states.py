"""What the blocks of a model put out, and what its output head is given, at chosen tokens of texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from llm_unlearn.data.collators import pad_rows
from llm_unlearn.models.answers import block_outputs, narrowed_logits
from llm_unlearn.models.loading import decoder_layers
from llm_unlearn.models.scoring import evaluation_mode


def states_at(
    model: PreTrainedModel,
    texts: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    batch_size: int = 16,
    layers: Sequence[int] | None = None,
) -> torch.Tensor:
    """The outputs of blocks alone, (blocks, positions in all, width); see `states_and_head_inputs`."""
    return states_and_head_inputs(model, texts, positions, batch_size, layers)[0]


@torch.no_grad()
def states_and_head_inputs(
    model: PreTrainedModel,
    texts: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    batch_size: int = 16,
    layers: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One forward pass of each text, without logits.

    Args:
        texts: token ids. positions: one or more of each text.
        layers: numbers of the blocks; by default all.

    Returns:
        The outputs of these blocks, (blocks, positions in all, width), and what the output head is given, (positions in
        all, width), text after text, in float32 on the CPU.
    """
    device = next(model.parameters()).device
    layers = range(len(decoder_layers(model))) if layers is None else layers
    by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]), reverse=True)
    of_texts: dict[int, torch.Tensor] = {}
    head_inputs: list[torch.Tensor] = []

    def keep(hidden: torch.Tensor) -> torch.Tensor:
        head_inputs[:] = [hidden]
        return hidden[:0]  # nobody asks for logits

    with evaluation_mode(model), narrowed_logits(model) as logits_only_at, block_outputs(model, layers) as outputs:
        for start in range(0, len(texts), batch_size):
            numbers = by_length[start : start + batch_size]
            rows = pad_rows([{"input_ids": [*texts[n]], "labels": [*texts[n]]} for n in numbers], 0)
            ids, mask = rows["input_ids"].to(device), rows["attention_mask"].to(device)
            logits_only_at(torch.ones_like(ids, dtype=torch.bool), instead=keep)
            model(input_ids=ids, attention_mask=mask, use_cache=False)
            counts = [len(positions[n]) for n in numbers]
            at = (
                torch.arange(len(numbers)).repeat_interleave(torch.tensor(counts)).to(device),
                torch.tensor([position for n in numbers for position in positions[n]], device=device),
            )
            given = head_inputs[0].unflatten(0, ids.shape)
            chosen = torch.stack([part[at].float().cpu() for part in (*(outputs[layer] for layer in layers), given)])
            of_texts.update(zip(numbers, chosen.split(counts, 1), strict=True))
    states = torch.cat([of_texts[number] for number in range(len(texts))], 1)
    return states[:-1], states[-1]
