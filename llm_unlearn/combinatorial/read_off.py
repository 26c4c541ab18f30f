"""What a network knows, read off its weights: the code of a clause and how strong it is.

The code of a clause is the set of hidden neurons that all its literals excite, and that speak for a positive answer:

    code(c) = {r : min over v in c of W1[r, v] > mean |W1| and w2[r] > 0}
    S_c     = sum over r of relu(min over v in c of W1[r, v]) relu(w2[r])

Source: feature channel coding, Adler et al. 2025, arXiv 2504.08842; threshold and strength as in arXiv 2602.19215.

A neuron can be rescaled (its row of W1 and b1 times c > 0, w2 over c) without any change of what the network computes.
S_c does not see it, but the threshold mean |W1| does. So codes are read off the *normalized* network: of all these
equal networks, the one in which every w2 is -1, 0 or 1. There, W1[r, v] is what input v adds to the logit through
neuron r.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llm_unlearn.combinatorial.formulas import generators, random_orders
from llm_unlearn.combinatorial.network import Network
from llm_unlearn.errors import InputError

NULL_SUBSETS = 50


def normalized(network: Network) -> Network:
    """The same function with every neuron rescaled to |w2| = 1; a neuron that nothing listens to becomes zero."""
    scale = network.w2.abs()
    return network._replace(w1=network.w1 * scale[..., None], b1=network.b1 * scale, w2=network.w2.sign())


def weakest_literal(w1: torch.Tensor, clauses: torch.Tensor) -> torch.Tensor:
    """Smallest weight among a clause's literals.

    Args:
        w1: (networks, hidden, inputs).
        clauses: (networks, clauses, literals), numbers of inputs.

    Returns:
        (networks, hidden, clauses).

    Raises:
        InputError: the clauses are of another number of networks, or name an input that there is not.
    """
    networks, hidden, inputs = w1.shape
    if len(clauses) != networks:
        raise InputError(f"clauses: {len(clauses)} formulas for {networks} networks; give one for each")
    if clauses.min() < 0 or clauses.max() >= inputs:
        raise InputError(f"clauses: name input {clauses.max()}, of {inputs} inputs; they are numbered from 0")
    index = clauses.flatten(1)[:, None].expand(-1, hidden, -1)
    return w1.gather(2, index).unflatten(2, clauses.shape[1:]).amin(-1)


def published_codes(network: Network, clauses: torch.Tensor) -> torch.Tensor:
    """Which neurons are in the code of each clause, by the weights as they are: (networks, hidden, clauses) bool."""
    threshold = network.w1.abs().mean((1, 2))[:, None, None]
    return (weakest_literal(network.w1, clauses) > threshold) & (network.w2 > 0)[..., None]


def codes(network: Network, clauses: torch.Tensor) -> torch.Tensor:
    """Which neurons are in the code of each clause, whatever a neuron's scale: (networks, hidden, clauses) bool."""
    return published_codes(normalized(network), clauses)


def strengths(network: Network, clauses: torch.Tensor) -> torch.Tensor:
    """S_c of each clause: (networks, clauses)."""
    return (weakest_literal(network.w1, clauses).relu() * network.w2.relu()[..., None]).sum(1)


def clause_weights(network: Network, clauses: torch.Tensor) -> torch.Tensor:
    """Mean weight of a clause's literals on each neuron of the normalized network: (networks, hidden, clauses)."""
    w1 = normalized(network).w1
    index = clauses.flatten(1)[:, None].expand(-1, w1.shape[1], -1)
    return w1.gather(2, index).unflatten(2, clauses.shape[1:]).mean(-1)


def mean_weights(network: Network, clauses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a literal adds to the logit through neurons for (w2 > 0) and against (w2 < 0) a positive answer.

    Returns:
        Two of (networks, clauses): means of `clause_weights` over these neurons. Below zero, the literals switch the
        neurons off. NaN without such neurons.
    """
    by_neuron = clause_weights(network, clauses)
    sides = (network.w2 > 0, network.w2 < 0)
    supporting, opposing = (by_neuron.masked_fill(~side[..., None], torch.nan).nanmean(1) for side in sides)
    return supporting, opposing


def pattern_correlation(before: Network, after: Network, clauses: torch.Tensor) -> torch.Tensor:
    """Whether a clause still excites some neurons and inhibits others as it did, however weakly: (networks, clauses).

    Pearson correlation of `clause_weights` over the neurons that were for a positive answer before. It sees what a
    threshold cannot: a code that was only weakened, and the neurons that a clause switches off, which are in no code.
    """
    listened = (before.w2 > 0)[..., None]
    count = listened.sum(1, keepdim=True)
    both = [clause_weights(network, clauses) * listened for network in (before, after)]
    centered = [(one - one.sum(1, keepdim=True) / count) * listened for one in both]
    return torch.cosine_similarity(*centered, dim=1)


def null_strengths(network: Network, literals: int, seeds: Sequence[int], subsets: int = NULL_SUBSETS) -> torch.Tensor:
    """Mean strength of random sets of as many inputs as a clause has, drawn for each seed: (networks,)."""
    draws = [random_orders(generators(seeds, f"null {number}"), network.w1.shape[2]) for number in range(subsets)]
    return strengths(network, torch.stack(draws, dim=1)[..., :literals]).mean(1)


def keep(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Share of a code, (..., hidden) bool, that is still there after: (...); NaN where there was none before."""
    return (after & before).sum(-1) / before.sum(-1)
