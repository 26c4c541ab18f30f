"""The audits of hidden states that language models are given, on networks whose weights can be read.

Of the hidden layer h on rows that fulfill the target clause and no other:

- probe: share of these rows and of hard negatives (all of its literals but one) that a linear readout of h tells apart,
  learned on other such rows (ridge regression). It is learned for each network anew, so a layer that never knew the
  clause has more than 0.5, too: what counts is beside the oracle.
- consistency, direction: whether h is where retraining would have put it, with the oracle as the retrained network;
  aligned: after a rotation that is fitted on rows of half of the other clauses (`metrics/consistency.py`).
- depth: what the original's readout loses on these rows when it is given h of the network in place of its own, over
  what it loses with the oracle's (`metrics/depth.py`; there is one layer to patch).

What they should say is known here: keep and pattern are read off the weights (`read_off.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.stats import rankdata
from torch.nn import functional as F

from llm_unlearn.combinatorial.formulas import Mixture, draw_rows, generators
from llm_unlearn.combinatorial.network import Network
from llm_unlearn.combinatorial.subject import Subject
from llm_unlearn.metrics.consistency import Displacements, States, aligned, displacements
from llm_unlearn.metrics.depth import depth_scores

ROWS = 512  # of each kind
RIDGE = 1e-2  # of the probe, in mean squares of a neuron's output


AUDITS = ("probe", "consistency", "aligned_consistency", "direction", "depth")
TRUTHS = ("keep", "pattern", "recovery_target")


class Inside:
    """Audits networks beside the original they come from and the oracle.

    Args:
        subject: the original and its formulas.
        oracle: networks of the same seeds that never knew the target.
    """

    def __init__(self, subject: Subject, oracle: Network):
        self.subject, task = subject, subject.task
        every = torch.arange(task.clauses.shape[1])

        def rows(purpose: str, clauses: torch.Tensor, positives: float = 1.0) -> torch.Tensor:
            mask = torch.zeros_like(task.all.positive)
            mask[:, clauses] = True
            mixture = Mixture(mask, mask, task.all.formula, positives, hard_negatives=1.0)
            return draw_rows(task, mixture, ROWS, generators(subject.seeds, purpose)).inputs

        middle = (len(every) + 1) // 2
        self.target = rows("audited target", every[:1])
        self.kept, self.neutral = rows("audited kept", every[1:middle]), rows("audited neutral", every[middle:])
        self.taught = rows("taught target", every[:1])
        self.negatives = {
            purpose: rows(purpose, every[:1], 0.0) for purpose in ("taught negatives", "audited negatives")
        }
        self.original, self.oracle = self._states(subject.original), self._states(oracle)
        self.oracle_drops = self._drops(oracle)

    @torch.no_grad()
    def measure(self, network: Network) -> dict[str, list[float]]:
        """Measurement -> a value for each seed."""
        states = self._states(network)
        found: dict[str, list[float]] = {"probe": self._probe(network).tolist()}
        for name in ("consistency", "kept_consistency", "direction", "aligned_consistency"):
            found[name] = []
        for original, oracle, tested in zip(self.original, self.oracle, states, strict=True):
            raw = {name: _moves(original, oracle, tested, name) for name in ("forget", "retain")}
            turned = [aligned(one, original) for one in (oracle, tested)]
            found["consistency"].append(_consistency(raw["forget"]))
            found["kept_consistency"].append(_consistency(raw["retain"]))
            found["direction"].append(float(np.mean(raw["forget"].cosine)))
            found["aligned_consistency"].append(_consistency(_moves(original, *turned, "forget")))
        pairs = zip(self.oracle_drops, self._drops(network), strict=True)
        found["depth"] = [float(np.nanmean(depth_scores(*pair))) for pair in pairs]
        return found

    @torch.no_grad()
    def _states(self, network: Network) -> list[States]:
        """Of each seed, with one layer."""
        parts = [network.hidden(rows).numpy()[:, None] for rows in (self.target, self.kept, self.neutral)]
        return [States(*one) for one in zip(*parts, strict=True)]

    def _probe(self, network: Network) -> torch.Tensor:
        """Accuracy of the readout on rows that it was not learned on: (networks,)."""
        taught = torch.cat([network.hidden(rows) for rows in (self.taught, self.negatives["taught negatives"])], dim=1)
        signs = torch.cat([torch.ones(ROWS), -torch.ones(ROWS)])
        mean = taught.mean(1, keepdim=True)
        centered = taught - mean
        products = centered.mT @ centered
        pull = RIDGE * products.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-9)
        weights = torch.linalg.solve(
            products + pull[:, None, None] * torch.eye(products.shape[1]), centered.mT @ signs[:, None]
        )
        said = [
            ((network.hidden(rows) - mean) @ weights).squeeze(2)
            for rows in (self.target, self.negatives["audited negatives"])
        ]
        return torch.cat([said[0] > 0, said[1] <= 0], dim=1).float().mean(1)

    @torch.no_grad()
    def _drops(self, network: Network) -> np.ndarray:
        """What the original's log-probability of a positive answer loses on target rows, (networks, 1, rows)."""
        original = self.subject.original
        own, patched = (
            F.logsigmoid(original.read_out(one.hidden(self.target))).double() for one in (original, network)
        )
        return (own - patched).numpy()[:, None]


def agreement(measured: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, list[float]]]:
    """Audit -> what it should say -> Spearman's rank correlation over the networks, for each seed.

    NaN where one of them is the same for all networks. A network that did not recover has the last rank.

    Args:
        measured: network -> measurement -> a value for each seed.
    """

    def ranked(what: str) -> np.ndarray:
        return np.stack([rankdata(values) for values in np.array([one[what] for one in measured.values()]).T])

    def correlations(audit: str, truth: str) -> list[float]:
        first, second = (ranked(what) - (len(measured) + 1) / 2 for what in (audit, truth))
        lengths = np.sqrt((first**2).sum(1) * (second**2).sum(1))
        return np.divide(
            (first * second).sum(1), lengths, out=np.full(len(lengths), np.nan), where=lengths > 0
        ).tolist()

    return {audit: {truth: correlations(audit, truth) for truth in TRUTHS} for audit in AUDITS}


def _moves(original: States, oracle: States, tested: States, name: str) -> Displacements:
    states = [getattr(one, name) for one in (original, oracle, tested)]
    return displacements(*states, units=range(states[0].shape[1]))


def _consistency(moves: Displacements) -> float:
    """NaN where retraining moves nothing."""
    return float(1 - moves.residual.mean() / moves.retraining.mean()) if moves.retraining.any() else float("nan")
