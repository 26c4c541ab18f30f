"""Logit lens: at which layer would the model's own end already prefer the true answer to another one?

After each block, the hidden state goes straight through what follows the last block (final norm, output embedding).
At the position before the first token in which two answers to a question differ, the true answer's token either beats
the other's or not. Chance is 0.5 where both answers are equally frequent (a derangement of the forget rows' own
answers); far below it, the model avoids the true answer, which gives it away, too.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from llm_unlearn.attacks.counterfactual import counterfactual_rows, true_rows
from llm_unlearn.audits.audit import Audit, Inspection, Measure
from llm_unlearn.data.collators import EncodedRow, pad_rows
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.errors import InputError
from llm_unlearn.metrics.intervals import percentile_interval, resampled_difference
from llm_unlearn.models.answers import block_outputs, narrowed_logits
from llm_unlearn.models.loading import decoder_layers
from llm_unlearn.models.scoring import evaluation_mode

CHANCE = 0.5


@dataclass(frozen=True)
class LensPair:
    """A true answer against another one.

    Attributes:
        row: number of the row.
        context: the tokens that both share, the question included.
        true_token, other_token: the first in which they differ.
    """

    row: int
    context: tuple[int, ...]
    true_token: int
    other_token: int


def lens_pairs(true_rows: Sequence[EncodedRow], other_rows: Sequence[EncodedRow]) -> list[LensPair]:
    """Row by row, where the two answers to a question part; rows with the same answer on both sides are left out.

    Args:
        other_rows: the same questions, in the same order, with other answers.

    Raises:
        InputError: no row has another answer on the other side.
    """
    pairs = []
    for number, (true, other) in enumerate(zip(true_rows, other_rows, strict=True)):
        ids = zip(true["input_ids"], other["input_ids"], true["labels"], strict=False)
        for position, (token, other_token, label) in enumerate(ids):
            if token != other_token:
                if label != IGNORED:  # else the questions differ: cut, or tokenized with the answer
                    pairs.append(LensPair(number, tuple(true["input_ids"][:position]), token, other_token))
                break
    if not pairs:
        raise InputError("logit lens: no row has an answer that differs from the other one; give other answers")
    return pairs


@torch.no_grad()
def logit_lens(model: PreTrainedModel, pairs: Sequence[LensPair], batch_size: int = 64) -> dict[str, Any]:
    """How often the true answer's token beats the other's after each block; an equal score counts half.

    The model's own forward decodes the hidden states: each becomes the last block's output for a text of one token. So
    no family's final norm has to be known by name.

    Returns:
        `by_layer`: the accuracy after each block, the mean over rows of their means over pairs; `value_by_index`: row
        -> its accuracy after each block; `chance`: 0.5.
    """
    by_row: dict[int, list[torch.Tensor]] = {}
    device = next(model.parameters()).device
    contexts = sorted({pair.context for pair in pairs}, key=len, reverse=True)
    pairs_of: dict[tuple[int, ...], list[LensPair]] = {context: [] for context in contexts}
    for pair in pairs:
        pairs_of[pair.context].append(pair)
    with evaluation_mode(model), _decoding(model) as (outputs, forward, decode):
        for start in range(0, len(contexts), batch_size):
            batch = contexts[start : start + batch_size]
            rows = pad_rows([{"input_ids": list(context), "labels": list(context)} for context in batch], 0)
            last = torch.tensor([len(context) - 1 for context in batch], device=device)
            forward(rows["input_ids"].to(device), rows["attention_mask"].to(device), last)
            states = [output[torch.arange(len(batch), device=device), last] for _, output in sorted(outputs.items())]
            asked = [(number, pair) for number, context in enumerate(batch) for pair in pairs_of[context]]
            numbers, true, other = (
                torch.tensor(column, device=device)
                for column in zip(*((n, pair.true_token, pair.other_token) for n, pair in asked), strict=True)
            )
            wins = []
            for state in states:
                logits = decode(state)[numbers]
                leads = (logits.gather(1, true[:, None]) - logits.gather(1, other[:, None]))[:, 0]
                wins.append((leads.sign().float() + 1) / 2)
            for (_, pair), values in zip(asked, torch.stack(wins, 1).cpu(), strict=True):
                by_row.setdefault(pair.row, []).append(values)
    values = {str(row): torch.stack(found).mean(0).tolist() for row, found in sorted(by_row.items())}
    by_layer = [fmean(column) for column in zip(*values.values(), strict=True)]
    return {"by_layer": by_layer, "value_by_index": values, "chance": CHANCE}


@contextlib.contextmanager
def _decoding(model: PreTrainedModel) -> Iterator[tuple[dict[int, torch.Tensor], Callable, Callable]]:
    """Hooks on the blocks, within this scope.

    Yields:
        Number of a block -> its last output; a forward of ids and mask (rows, length) that sets these, and has logits
        at the position `last` (rows,) of each row only; and a function from hidden states (rows, width) to the logits
        (rows, vocabulary) that the model gives where they are the last block's output.
    """
    blocks = decoder_layers(model)
    injected: torch.Tensor | None = None

    def inject(_block: nn.Module, _inputs: tuple, output: Any) -> Any:
        if injected is None:
            return None
        return (injected[:, None], *output[1:]) if isinstance(output, tuple) else injected[:, None]

    layers = range(len(blocks))
    with (
        narrowed_logits(model) as logits_only_at,
        block_outputs(model, layers) as outputs,
        contextlib.ExitStack() as hooks,
    ):
        hooks.callback(blocks[-1].register_forward_hook(inject).remove)

        def forward(ids: torch.Tensor, mask: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
            logits_only_at(torch.arange(ids.shape[1], device=ids.device) == last[:, None])
            return model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()

        def decode(states: torch.Tensor) -> torch.Tensor:
            nonlocal injected
            injected = states
            try:
                ids = torch.zeros(len(states), 1, dtype=torch.long, device=states.device)
                return forward(ids, torch.ones_like(ids), torch.zeros_like(ids[:, 0]))
            finally:
                injected = None

        yield outputs, forward, decode


def _start(inspection: Inspection) -> Measure:
    forget, group_by = inspection.data.forget, inspection.group_by
    datasets = [true_rows(forget, group_by)]
    datasets += [counterfactual_rows(forget, seed, group_by) for seed in inspection.derangement_seeds]
    true, *others = (inspection.encoded(dataset, "forget set (lens)") for dataset in datasets)
    pairs = [pair for other in others for pair in lens_pairs(true, other)]
    return lambda _name, model: {"logit_lens": _with_intervals(logit_lens(model, pairs), inspection.groups)}


def _with_intervals(lens: dict[str, Any], groups: Sequence[str | int]) -> dict[str, Any]:
    """`intervals`: of each block's accuracy, 95 %, over people (or whatever groups the rows)."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    units = [numbers[groups[int(row)]] for row in lens["value_by_index"]]
    units = np.unique(units, return_inverse=True)[1].tolist()  # some groups may have no row with two answers
    columns = np.array(list(lens["value_by_index"].values())).T
    resampled = [resampled_difference(column[None, None], None, units)[1] for column in columns]
    return lens | {"intervals": [list(percentile_interval(differences)) for differences in resampled]}


AUDIT = Audit(
    "logit_lens",
    summary="after which block the true answer would already be preferred to another one",
    sections=("logit_lens",),
    start=_start,
)
