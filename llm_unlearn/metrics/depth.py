"""Unlearning depth score (UDS): of what an oracle's hidden states take away, how much do an unlearned model's?

A row's states after one block of the original are replaced by another model's, and the log-probability of its answer
drops: by d1 with the oracle's states, which lack the answer, by d2 with the tested model's. Over the blocks where the
answer is known, those with d1 over a threshold: UDS = sum of d1 clip(d2 / d1, 0, 1) / sum of d1.

Source: arXiv 2605.24614.
"""

from __future__ import annotations

import numpy as np

THRESHOLD = 0.05  # nats for a token of the answer


def depth_scores(reference_drops: np.ndarray, drops: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """The UDS of each row, (rows,), in [0, 1]; NaN where no block is over the threshold.

    Args:
        reference_drops, drops: (blocks, rows), d1 and d2.
    """
    known = reference_drops > threshold
    total = np.where(known, reference_drops, 0).sum(0)
    lost = np.where(known, np.minimum(np.maximum(drops, 0), reference_drops), 0).sum(0)
    return np.divide(lost, total, out=np.full(total.shape, np.nan), where=total > 0)
