"""How fast fine-tuning brings a forgotten clause back, and whether it walks back the way that unlearning came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from llm_unlearn.combinatorial.formulas import Mixture, Rows, Task, batches, generators
from llm_unlearn.combinatorial.network import Network, adam, cross_entropy, descend, true_positive_rate

RECOVERED = 0.8  # share of target rows called positive
LEARNING_RATE = 0.002
BATCH_SIZE = 64


class Recovery(NamedTuple):
    """Outcome for each network.

    Attributes:
        network: as it was when it had recovered, or after the last step.
        steps: (networks,); where it did not recover, all of them.
        recovered: (networks,) bool.
        curve: (steps + 1, networks), the target's true positive rate before and after each step, as long as any network
            had not recovered.
    """

    network: Network
    steps: torch.Tensor
    recovered: torch.Tensor
    curve: torch.Tensor


def recover(
    task: Task,
    mixture: Mixture,
    network: Network,
    target_rows: torch.Tensor,
    seeds: Sequence[int],
    steps: int,
    progress: Callable[[int], None],
) -> Recovery:
    """Fine-tune until the target is back: Adam, learning rate 0.002, 64 rows a step.

    Args:
        task: a formula for each seed.
        mixture: what is trained on.
        network: models of all seeds, model after model: (models x seeds, ...); models of a seed see the same rows.
        target_rows: (seeds, rows, inputs), on which recovery is judged.
        steps: give up after these.
        progress: called with 1 after each step.
    """
    models = len(network.b2) // len(seeds)
    judged = target_rows.repeat(models, 1, 1)
    rates = [true_positive_rate(network, judged)]

    def stop(now: Network) -> torch.Tensor:
        rates.append(true_positive_rate(now, judged))
        progress(1)
        return rates[-1] >= RECOVERED

    rows = batches(task, mixture, BATCH_SIZE, steps, generators(seeds, "recovery"))
    repeated = (Rows(one.inputs.repeat(models, 1, 1), one.labels.repeat(models, 1)) for one in rows)
    found, taken = descend(network, repeated, cross_entropy, adam(LEARNING_RATE), stop)
    return Recovery(found, taken, true_positive_rate(found, judged) >= RECOVERED, torch.stack(rates))


def reversal(original: Network, unlearned: Network, recovered: Network) -> torch.Tensor:
    """Cosine of the way back and the way to the original, over all weights: (networks,).

    1: recovery undoes what unlearning did; 0: it has nothing to do with it. NaN where nothing moved.
    """
    start = unlearned.flat()
    back, home = recovered.flat() - start, original.flat() - start
    cosine = F.cosine_similarity(back, home, dim=1)
    return cosine.masked_fill((back.norm(dim=1) == 0) | (home.norm(dim=1) == 0), torch.nan)
