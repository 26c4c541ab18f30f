"""The one way in which models are run here: one call, logits at answer positions only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from llm_unlearn.data.collators import ALTERNATE, FORGET, GENERAL, RETAIN
from llm_unlearn.errors import InputError
from llm_unlearn.models.loading import decoder_layers


def answer_token_logps(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probability of each label, in float32 or better: (tokens, vocabulary) and (tokens,) -> (tokens,)."""
    return -F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, reduction="none")


@dataclass
class Answers:
    """What a model says at the answer positions of a batch of R rows with N answer tokens in all.

    Attributes:
        logits: (N, vocabulary), row after row; None where they were made and dropped in chunks.
        labels: (N,) the answer tokens.
        token_rows: (N,) the row of each token.
        roles: (R,) FORGET, ALTERNATE, RETAIN, GENERAL or PADDING.
        reference_logps: (R,) answer log-probs under the reference model, where the method needs one.
        reference_logits: (N, vocabulary), of the rows that a loss compares; zero elsewhere.
        hidden_states: block -> (N, width), its outputs at the positions whose logits these are; where asked for.
        reference_hidden_states: the same of the reference model, of the rows that a loss compares; zero elsewhere.
        indices: (R,) number of each row in its set, where the batch has them; -1 of filler.
        token_weights: (N,) how much each token counts in its answer; None: all alike.
    """

    logits: torch.Tensor | None
    labels: torch.Tensor
    token_rows: torch.Tensor
    roles: torch.Tensor
    reference_logps: torch.Tensor | None = None
    reference_logits: torch.Tensor | None = None
    hidden_states: dict[int, torch.Tensor] = field(default_factory=dict)
    reference_hidden_states: dict[int, torch.Tensor] = field(default_factory=dict)
    indices: torch.Tensor | None = None
    token_weights: torch.Tensor | None = None

    _token_logps = None  # until they are asked for

    @property
    def token_logps(self) -> torch.Tensor:
        """Log-probability of every answer token, (N,), float32.

        Can be set where it is known already: made in chunks without logits, or with a gradient of its own.
        """
        if self._token_logps is None:
            self._token_logps = answer_token_logps(self.logits, self.labels)
        return self._token_logps

    @token_logps.setter
    def token_logps(self, values: torch.Tensor) -> None:
        self._token_logps = values

    @cached_property
    def tokens(self) -> torch.Tensor:
        """Number of answer tokens per row, (R,)."""
        return torch.bincount(self.token_rows, minlength=len(self.roles))

    @cached_property
    def lengths(self) -> torch.Tensor:
        """What a mean over a row's tokens divides by, (R,): their number, or the sum of their weights."""
        return self.tokens if self.token_weights is None else self._row_sums(self.token_weights).clamp(min=1e-6)

    @cached_property
    def logps(self) -> torch.Tensor:
        """Log-probability of each row's whole answer, (R,): the sum over its tokens, weighted if they are."""
        return self._row_sums(self.weighted(self.token_logps))

    def weighted(self, values: torch.Tensor) -> torch.Tensor:
        """One value per answer token, (N,), times its weight, where they have weights."""
        return values if self.token_weights is None else self.token_weights * values

    def _row_sums(self, values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(len(self.roles)).index_add(0, self.token_rows, values)

    @cached_property
    def forget(self) -> Answers:
        """The forget rows alone."""
        return self.with_role(FORGET)

    @cached_property
    def alternate(self) -> Answers:
        """The other answers to the questions of the forget rows, in their order."""
        return self.with_role(ALTERNATE)

    @cached_property
    def retain(self) -> Answers:
        """The retain rows alone."""
        return self.with_role(RETAIN)

    @cached_property
    def general(self) -> Answers:
        """The general rows alone, those that protect abilities."""
        return self.with_role(GENERAL)

    def with_role(self, role: int) -> Answers:
        """The rows of a role alone."""
        rows = self.roles == role
        of_role = torch.nonzero(rows[self.token_rows]).flatten()
        # Rows of one role stand together in a batch, so this is a view: logits are large, and most losses need none.
        tokens = slice(int(of_role[0]), int(of_role[-1]) + 1) if len(of_role) else slice(0)
        new_number = rows.cumsum(0) - 1
        part = Answers(
            None if self.logits is None else self.logits[tokens],
            self.labels[tokens],
            new_number[self.token_rows[tokens]],
            self.roles[rows],
            None if self.reference_logps is None else self.reference_logps[rows],
            None if self.reference_logits is None else self.reference_logits[tokens],
            {layer: states[tokens] for layer, states in self.hidden_states.items()},
            {layer: states[tokens] for layer, states in self.reference_hidden_states.items()},
            None if self.indices is None else self.indices[rows],
            None if self.token_weights is None else self.token_weights[tokens],
        )
        part.token_logps = self.token_logps[tokens]  # computed once for all roles
        return part


def forward_answers(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    unwrapped: nn.Module | None = None,
    split_roles: bool = False,
    chunk_size: int | None = None,
    split_long: bool = False,
    hidden_layers: Sequence[int] = (),
) -> Answers:
    """One call of `model` (possibly wrapped by DDP and the like) that computes logits at answer positions only.

    Args:
        model: called once, so that data-parallel wrappers see one forward and one backward.
        batch: input_ids, attention_mask, labels and, where answer tokens have weights, weights of shape (rows, length),
            and roles (rows,).
        unwrapped: the bare model inside `model`.
        split_roles: run forget rows and all others apart through the blocks inside the one call, so that gradients with
            respect to the activations of forget rows do not travel through the retain rows.
        chunk_size: make the logits of so many answer tokens at a time and keep their log-probabilities alone; the
            backward makes them once more.
        split_long: run long general rows apart likewise where that spares a third of the tokens, padding included: a
            few of them (questions after examples) would have all rows padded to their length. Not where each call of a
            block is a meeting of all processes.
        hidden_layers: numbers of blocks whose outputs at these positions are kept, with their graph.

    Raises:
        InputError: `chunk_size` with a model that changes its logits after the output embedding.
    """
    labels, roles = batch["labels"], batch["roles"]
    groups = [roles == FORGET, roles != FORGET] if split_roles else [torch.ones_like(roles, dtype=torch.bool)]
    if split_long and (roles == GENERAL).any():
        groups[-1:] = _by_length(groups[-1], roles == GENERAL, batch["attention_mask"].sum(1))
    # Row groups keep the order of tokens because the collator puts forget rows first, and long general rows last.
    token_rows, positions = torch.nonzero(labels[:, 1:] != -100, as_tuple=True)
    answer_tokens = labels[token_rows, positions + 1]
    with _answer_positions_only(unwrapped or model, answer_tokens, chunk_size, hidden_layers) as hidden_states:
        said = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, row_groups=groups
        ).logits
    answers = Answers(None if chunk_size else said, answer_tokens, token_rows, roles, hidden_states=hidden_states)
    answers.indices = batch.get("indices")
    if "weights" in batch:
        answers.token_weights = batch["weights"][token_rows, positions + 1]
    if chunk_size:
        answers.token_logps = said
    return answers


def _by_length(rows: torch.Tensor, general: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """The rows of a group as they are, or without their last general rows and these apart; all are masks, (rows,)."""
    numbers, sizes = torch.nonzero(rows).flatten().tolist(), lengths.tolist()
    whole = len(numbers) * max(sizes[i] for i in numbers)
    cost, cut = whole, 0
    for position in range(1, len(numbers)):
        if general[numbers[position]]:
            first, last = numbers[:position], numbers[position:]
            padded = len(first) * max(sizes[i] for i in first) + len(last) * max(sizes[i] for i in last)
            cost, cut = min((cost, cut), (padded, numbers[position]))
    if cost > 2 / 3 * whole:
        return [rows]
    is_before = torch.arange(len(rows), device=rows.device) < cut
    return [rows & is_before, rows & ~is_before]


@contextlib.contextmanager
def _answer_positions_only(
    model: nn.Module, answer_tokens: torch.Tensor, chunk_size: int | None, hidden_layers: Sequence[int]
) -> Iterator[dict[int, torch.Tensor]]:
    """Within this scope `model.forward` takes `labels` and `row_groups` and returns logits of shape (answer tokens, V),
    or with a chunk size, in their place, the answer tokens' log-probabilities, (answer tokens,). Yields what will hold
    the outputs of blocks, each (answer tokens, width).

    The hidden states are narrowed right before the output embedding, whatever the family: at 128k vocabulary the
    logits of the question tokens would be most of a step's memory. The output embedding runs once, for all groups: it
    is large, and slow on few tokens.
    """
    original_forward = model.forward
    replaced = model.__dict__.get("forward")  # Accelerate, too, replaces forward on the instance
    head = model.get_output_embeddings()
    chunked: list[torch.Tensor] = []
    hidden_states: dict[int, torch.Tensor] = {}

    def score_in_chunks(hidden: torch.Tensor) -> torch.Tensor:
        first = hidden[:1].detach()  # the model still makes one token's logits, for the comparison below
        chunked[:] = [
            chunked_token_logps(head.forward, hidden, answer_tokens, chunk_size),
            head.forward(first).detach(),
        ]
        return first

    def forward(input_ids, attention_mask, labels, row_groups):
        groups = [rows for rows in row_groups if rows.any()]
        of_groups: list[list[torch.Tensor]] = []
        for number, rows in enumerate(groups, start=1):
            length = int(attention_mask[rows].sum(1).max())  # each group is cut to its own longest row
            wanted = torch.zeros_like(labels[rows, :length], dtype=torch.bool)
            wanted[:, :-1] = labels[rows, 1:length] != -100
            logits_only_at(wanted, later=number < len(groups), instead=chunk_size and score_in_chunks)
            output = original_forward(
                input_ids=input_ids[rows, :length], attention_mask=attention_mask[rows, :length], use_cache=False
            )
            of_groups.append([outputs[layer][wanted] for layer in hidden_layers])
        hidden_states.update(zip(hidden_layers, map(torch.cat, zip(*of_groups, strict=True)), strict=True))
        if chunk_size is not None:
            logps, first_logits = chunked
            if not torch.allclose(output.logits.float(), first_logits.float(), rtol=1e-3, atol=1e-3):
                raise InputError(
                    f"logits_chunk_size={chunk_size}: {type(model).__name__} changes its logits after the output "
                    "embedding (a cap or a scale), which chunks would leave out; leave logits_chunk_size out"
                )
            output.logits = logps
        return output

    with narrowed_logits(model) as logits_only_at, block_outputs(model, hidden_layers) as outputs:
        model.forward = forward
        try:
            yield hidden_states
        finally:
            if replaced is None:
                del model.forward
            else:
                model.forward = replaced


def chunked_token_logps(
    head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, labels: torch.Tensor, chunk_size: int
) -> torch.Tensor:
    """`answer_token_logps` of the logits `head(hidden)`, of which no more than `chunk_size` rows exist at a time.

    Checkpointing makes each chunk once more in the backward. PyTorch's own `linear_cross_entropy` would do so as well,
    but rounds the result to the dtype of the hidden states: to three digits in bfloat16.

    Args:
        hidden: (tokens, width). labels: (tokens,).

    Returns:
        (tokens,), float32 or better.
    """

    def score(hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return answer_token_logps(head(hidden), labels)

    chunks = zip(hidden.split(chunk_size), labels.split(chunk_size), strict=True)
    return torch.cat([checkpoint(score, *chunk, use_reentrant=False) for chunk in chunks])


@contextlib.contextmanager
def block_outputs(model: nn.Module, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Within this scope, what some blocks last gave: number -> (rows, length, width), with its graph.

    To be taken right after the forward: under activation checkpointing, blocks run again in the backward.
    """
    outputs: dict[int, torch.Tensor] = {}

    def keep(layer: int, _block: nn.Module, _inputs: tuple, output: Any) -> None:
        outputs[layer] = output[0] if isinstance(output, tuple) else output

    blocks = decoder_layers(model) if layers else ()
    hooks = [blocks[layer].register_forward_hook(partial(keep, layer)) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def narrowed_logits(model: nn.Module) -> Iterator[Callable[..., None]]:
    """Within this scope, forwards of `model` return logits of shape (wanted positions, vocabulary).

    Yields a function that takes the positions that the next forward is wanted at, a mask of shape (rows, length). With
    `later=True` that forward returns no logits: they come first in those of the following one. `instead` is given the
    hidden states at the wanted positions, (positions, width), and returns those that logits are made of in their place.

    Raises:
        InputError: the model has no output embedding.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise InputError(f"{type(model).__name__} has no output embedding (get_output_embeddings() is None)")
    wanted: torch.Tensor | None = None
    postponed = False
    replace: Callable[[torch.Tensor], torch.Tensor] | None = None
    waiting: list[torch.Tensor] = []

    def choose(positions: torch.Tensor, later: bool = False, instead: Callable | None = None) -> None:
        nonlocal wanted, postponed, replace
        wanted, postponed, replace = positions, later, instead

    def narrow(_module: nn.Module, arguments: tuple) -> tuple:
        hidden = arguments[0][wanted]
        if postponed:
            waiting.append(hidden)
            return (hidden[:0], *arguments[1:])
        if waiting:
            hidden = torch.cat([*waiting, hidden])
            waiting.clear()
        return (replace(hidden) if replace else hidden, *arguments[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield choose
    finally:
        handle.remove()
