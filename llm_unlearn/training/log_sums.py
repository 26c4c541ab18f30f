"""What steps add up to until the next log line: means over steps, micro-batches and processes."""

from __future__ import annotations

import torch
from accelerate import Accelerator


class LogSums:
    """Shares of global means by name; every process must add to the same names, zero where it has no such rows."""

    def __init__(self, accelerator: Accelerator, device: torch.device):
        self.accelerator, self.device = accelerator, device
        self.sums: dict[str, tuple[torch.Tensor, set[int]]] = {}  # this process's share, and the numbers of the steps
        self.step_nll: dict[str, torch.Tensor] = {}  # of this step's answer tokens, this process's share of the mean

    def add(self, name: str, value: torch.Tensor, step: int) -> None:
        """Add a micro-batch's share of a global mean."""
        total, steps = self.sums.get(name, (torch.zeros((), device=self.device), set()))
        steps.add(step)
        self.sums[name] = (total + value, steps)

    def add_nll(self, name: str, value: torch.Tensor) -> None:
        """Add a micro-batch's share of a step's mean negative log-likelihood, which divergence is told by."""
        self.step_nll[name] = self.step_nll.get(name, 0.0) + value

    def clear(self) -> None:
        """Forget a step that was not taken, and what was added before it."""
        self.sums, self.step_nll = {}, {}

    def take(self) -> dict[str, float]:
        """The means over steps of what was added since this was last called. Every process must call it."""
        names = sorted(self.sums)
        if not names:
            return {}
        totals = torch.stack([self.sums[name][0] / len(self.sums[name][1]) for name in names])
        self.sums = {}
        return dict(zip(names, self.accelerator.reduce(totals, "sum").tolist(), strict=True))

    def state(self) -> dict[str, torch.Tensor]:
        """For a checkpoint: of each name the share of every process, (processes,), and the numbers of the steps. Every
        process must call it.
        """
        state = {}
        for name in sorted(self.sums):
            share, steps = self.sums[name]
            state[f"{name}: shares"] = self.accelerator.gather(share.detach().reshape(1))
            state[f"{name}: steps"] = torch.tensor(sorted(steps))
        return state

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what `state` gave; {}: nothing has been added."""
        self.sums = {}
        processes, own = self.accelerator.num_processes, self.accelerator.process_index
        for key, shares in state.items():
            name, _, what = key.rpartition(": ")
            if what == "shares":
                if len(shares) != processes:  # of a run with more or fewer of them: the first process takes all
                    shares = torch.stack([shares.sum(), *[torch.zeros_like(shares[0])] * (processes - 1)])
                self.sums[name] = (shares[own].clone(), set(state[f"{name}: steps"].tolist()))
