"""Monotone formulas in disjunctive normal form, and labeled inputs for them.

A formula is an OR of disjoint clauses, each an AND of a few inputs. Batched: a formula per network, stacked along the
first dimension. Every formula draws from a generator of its own, so that a seed gives the same networks whichever
others run beside it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from llm_unlearn.errors import InputError

# Share of ones among the inputs that no clause needs. With half of them on, a clause that holds hardly stands out, and
# networks learn few codes and weak ones.
ONES = 0.1
CHUNK_ROWS = 4_096  # rows of one formula drawn at once: few calls, little memory


class Rows(NamedTuple):
    """Inputs and labels: `inputs` (formulas, rows, inputs) and `labels` (formulas, rows), both 0.0 or 1.0."""

    inputs: torch.Tensor
    labels: torch.Tensor


class Mixture(NamedTuple):
    """What is drawn, a mask of clauses each, (formulas, clauses) bool.

    Attributes:
        positive: a positive row fulfills exactly one of these.
        hard: a hard negative fulfills all but one literal of one of these.
        formula: the clauses that make a row positive. No other row fulfills any of them.
        positives: share of positive rows.
        hard_negatives: share of hard ones among the negative rows.
    """

    positive: torch.Tensor
    hard: torch.Tensor
    formula: torch.Tensor
    positives: float = 0.5
    hard_negatives: float = 0.5


class Task(NamedTuple):
    """A formula for each network; its first clause is the target, which is to be forgotten.

    Attributes:
        clauses: (formulas, clauses, literals), numbers of inputs; the clauses of a formula share none.
        inputs: how many inputs a row has.
    """

    clauses: torch.Tensor
    inputs: int

    @property
    def all(self) -> Mixture:
        """What the original is trained on."""
        every = self._mask(True, True)
        return Mixture(every, every, every)

    @property
    def without_target(self) -> Mixture:
        """What the oracle is trained on: the formula without the target, whose inputs are as good as noise."""
        rest = self._mask(False, True)
        return Mixture(rest, rest, rest)

    @property
    def retain(self) -> Mixture:
        """True labels, but the target never holds, nor do all but one of its literals on purpose."""
        rest = self._mask(False, True)
        return Mixture(rest, rest, self._mask(True, True))

    @property
    def target(self) -> Mixture:
        """Positive rows fulfill the target."""
        target = self._mask(True, False)
        return Mixture(target, target, self._mask(True, True))

    @property
    def forget(self) -> Mixture:
        """Rows that fulfill the target, and no others."""
        return self.target._replace(positives=1.0)

    def only(self, clause: int) -> Mixture:
        """Rows that fulfill one clause, and no others."""
        mask = self._mask(False, False)
        mask[:, clause] = True
        return Mixture(mask, mask, self._mask(True, True), positives=1.0)

    def _mask(self, target: bool, rest: bool) -> torch.Tensor:
        mask = torch.full(self.clauses.shape[:2], rest)
        mask[:, 0] = target
        return mask


def generators(seeds: Sequence[int], purpose: str) -> list[torch.Generator]:
    """A generator for each seed; another purpose gives other numbers."""
    return [torch.Generator().manual_seed(zlib.crc32(f"{purpose} {seed}".encode())) for seed in seeds]


def random_orders(generators: Sequence[torch.Generator], count: int) -> torch.Tensor:
    """A random order of 0 ... count - 1 for each generator: (generators, count)."""
    return torch.stack([torch.randperm(count, generator=generator) for generator in generators])


def random_task(seeds: Sequence[int], inputs: int = 32, clauses: int = 8, literals: int = 4) -> Task:
    """Disjoint random clauses for each seed.

    Raises:
        InputError: there are fewer inputs than literals in all clauses.
    """
    if clauses * literals > inputs:
        raise InputError(
            f"inputs={inputs} are too few for {clauses} disjoint clauses of {literals} literals; "
            f"give at least {clauses * literals}"
        )
    used = random_orders(generators(seeds, "clauses"), inputs)[:, : clauses * literals]
    return Task(used.unflatten(1, (clauses, literals)), inputs)


def truth_of(clauses: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Which clauses of each formula hold in its rows, (formulas, rows, inputs): (formulas, rows, clauses) bool."""
    index = clauses.flatten(1)[:, None].expand(-1, inputs.shape[1], -1)
    return inputs.gather(2, index).unflatten(2, clauses.shape[1:]).bool().all(-1)


def draw_rows(task: Task, mixture: Mixture, rows: int, generators: Sequence[torch.Generator]) -> Rows:
    """Independent rows of each formula; `generators` has one for each."""
    clauses, inputs = task
    _, count, literals = clauses.shape
    draws = [_random_numbers(rows, inputs - count * literals, count, generator) for generator in generators]
    uniform, others, breaks, states = (torch.stack(parts) for parts in zip(*draws, strict=True))
    is_positive = uniform[..., 0] < mixture.positives
    is_hard = ~is_positive & (uniform[..., 1] < mixture.hard_negatives)
    positive = is_positive[..., None] & _one_of(mixture.positive, uniform[..., 2:])
    hard = is_hard[..., None] & _one_of(mixture.hard, uniform[..., 2:])

    # Until the end, a clause's literals are the bits of one number: less to move than a number for each.
    full = 2**literals - 1
    state = torch.bucketize(states, _state_bounds(literals), out_int32=True, right=True)
    state = torch.where(positive | hard, full, state)
    spoiled = (state == full) & (mixture.formula[:, None] | hard) & ~positive
    one_less = full - 2 ** (breaks * literals).int()
    state = torch.where(spoiled, one_less, state)
    labels = ((state == full) & mixture.formula[:, None]).any(-1)
    bits = (state[..., None] >> torch.arange(literals, dtype=torch.int32)) & 1
    bits = torch.cat([bits.flatten(2).float(), (others < ONES).float()], dim=2)
    places = _clause_order(clauses, inputs).argsort(1)[:, None].expand_as(bits)
    return Rows(bits.gather(2, places), labels.float())


def batches(
    task: Task, mixture: Mixture, batch_size: int, steps: int, generators: Sequence[torch.Generator]
) -> Iterator[Rows]:
    """`steps` batches of `batch_size` rows of each formula, drawn in chunks, each while the one before is in use."""
    per_chunk = max(1, CHUNK_ROWS // batch_size)
    counts = [min(per_chunk, steps - start) for start in range(0, steps, per_chunk)]
    with ThreadPoolExecutor(1) as pool:  # one worker: the generators are drawn from in order
        chunks = (pool.submit(draw_rows, task, mixture, count * batch_size, generators) for count in counts)
        following = next(chunks)
        while following is not None:
            drawn, following = following.result(), next(chunks, None)
            parts = (part.split(batch_size, dim=1) for part in drawn)
            yield from (Rows(*pair) for pair in zip(*parts, strict=True))


def _random_numbers(
    rows: int, others: int, clauses: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """In [0, 1): for the kind of a row, inputs outside clauses, the literal to break, and a clause's bits."""
    return torch.rand(rows, 3 + others + 2 * clauses, generator=generator).split([3, others, clauses, clauses], dim=1)


def _state_bounds(literals: int) -> torch.Tensor:
    """Where [0, 1) is cut so that each state of a clause's bits gets its probability: (2^literals - 1,)."""
    ones = torch.tensor([state.bit_count() for state in range(2**literals)])
    return (ONES**ones * (1 - ONES) ** (literals - ones)).cumsum(0)[:-1]


def _clause_order(clauses: torch.Tensor, inputs: int) -> torch.Tensor:
    """The inputs clause by clause, then all others: (formulas, inputs)."""
    used = clauses.flatten(1)
    is_used = torch.zeros(len(clauses), inputs, dtype=torch.bool).scatter(1, used, True)
    others = torch.arange(inputs).expand_as(is_used)[~is_used].view(len(clauses), -1)
    return torch.cat([used, others], dim=1)


def _one_of(mask: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """One clause of the mask, (formulas, clauses), for each row of `uniform`, (formulas, rows, 1): one-hot."""
    rank = mask.cumsum(1)[:, None]
    wanted = (uniform * rank[..., -1:]).long() + 1
    return mask[:, None] & (rank == wanted)
