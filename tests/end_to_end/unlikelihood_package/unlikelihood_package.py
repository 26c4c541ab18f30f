"""Unlikelihood: loss = mean over forget answer tokens of -log(1 - p^beta); tokens below a probability are left alone.

Source: Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training", arXiv 1908.04319, eq. 2 (beta 1).
"""

from dataclasses import dataclass, field

import torch

from llm_unlearn import Method, UnlearnConfig, UnlearnTrainer
from llm_unlearn.training.paper import Paper


@dataclass
class UnlikelihoodConfig(UnlearnConfig):
    """Arguments of `UnlikelihoodTrainer`."""

    beta: float = field(default=1.0, metadata={"help": "Exponent of a token's probability."})
    floor: float = field(default=0.0, metadata={"help": "Tokens less likely than this are left alone."})


class UnlikelihoodTrainer(UnlearnTrainer):
    """Unlikelihood on the forget rows; `args` is an `UnlikelihoodConfig`."""

    config_class = UnlikelihoodConfig
    method_name = "unlikelihood"
    method_title = "unlikelihood"
    paper = Paper("1908.04319", "Welleck and others", 2019, "Neural Text Generation with Unlikelihood Training")

    def forget_loss(self, answers):
        """One value per forget answer token."""
        logps = self.args.beta * answers.forget.token_logps.clamp(max=-1e-6)  # 1 - p is not 0 where p is rounded to 1
        losses = -(-torch.expm1(logps)).log()
        return torch.where(answers.forget.token_logps.exp() < self.args.floor, 0.0, losses)


METHOD = Method(
    UnlikelihoodTrainer,
    summary="Unlearn with unlikelihood training: raise the probability of everything but the forgotten token",
    embedded_defaults={"beta": 2.0},
)
