"""Methods that fit labels by which the target is false: relabeling, and distillation into a warm and a fresh student.

Sources: distillation as unlearning, Kodama et al. 2026, arXiv 2602.19215, and Lee et al. 2025, arXiv 2506.06278.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from llm_unlearn.combinatorial.formulas import Rows, batches, generators, truth_of
from llm_unlearn.combinatorial.network import Network, adam, cross_entropy, descend, random_networks
from llm_unlearn.combinatorial.subject import Subject, Unlearned, repeated


def fit_labels(
    subject: Subject, learning_rate: float, steps: int, progress: Callable[[int], None]
) -> dict[str, Unlearned]:
    """Relabeling and both distillations, by name, with Adam.

    All three see the same rows. Relabeling fine-tunes the original on the labels of the formula without the target. A
    student is given the original's own probabilities instead, and 0 where the target holds; the warm one starts as the
    original, the fresh one from new random weights.
    """
    original, task, networks = subject.original, subject.task, len(subject.seeds)
    fresh = random_networks(generators(subject.seeds, "fresh student"), *original.w1.shape[1:])
    start = Network(*(torch.cat(parts) for parts in zip(original, original, fresh, strict=True)))

    def targets() -> Iterator[Rows]:
        for rows in batches(task, task.all, subject.batch_size, steps, generators(subject.seeds, "labels")):
            holds = truth_of(task.clauses, rows.inputs)[..., 0]
            with torch.no_grad():
                taught = torch.sigmoid(original.logits(rows.inputs)).masked_fill(holds, 0.0)
            relabeled = rows.labels.masked_fill(holds, 0.0)
            progress(1)
            yield Rows(repeated(rows.inputs, 3), torch.cat([relabeled, taught, taught]))

    found, taken = descend(start, targets(), cross_entropy, adam(learning_rate))
    parts = zip(*(part.split(networks) for part in found), strict=True)
    names = ("relabel", "distill_warm", "distill_fresh")
    return {name: (Network(*part), one) for name, part, one in zip(names, parts, taken.split(networks), strict=True)}
