"""SimNPO: loss = mean over rows of -(2/beta) log sigmoid(beta (nll/length - delta)), without a reference model.

Source: Fan et al. 2024, "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning",
arXiv 2410.07163, eq. 4.
"""

from dataclasses import dataclass, field

import torch.nn.functional as F

from llm_unlearn import Method, UnlearnConfig, UnlearnTrainer
from llm_unlearn.training.paper import Paper


@dataclass
class SimNPOConfig(UnlearnConfig):
    """Arguments of `SimNPOTrainer`."""

    beta: float = field(default=4.5, metadata={"help": "Inverse temperature, for the mean of an answer's tokens."})
    delta: float = field(default=0.0, metadata={"help": "Subtracted from an answer's mean nll."})


class SimNPOTrainer(UnlearnTrainer):
    """SimNPO on the forget rows; `args` is a `SimNPOConfig`."""

    config_class = SimNPOConfig
    method_name = "simnpo"
    method_title = "SimNPO"
    paper = Paper(
        "2410.07163",
        "Fan and others",
        2024,
        "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning",
    )

    def forget_loss(self, answers):
        """One value per forget row."""
        beta, forget = self.args.beta, answers.forget
        return -2 / beta * F.logsigmoid(beta * (-forget.logps / forget.lengths - self.args.delta))


METHOD = Method(
    SimNPOTrainer,
    summary="Unlearn with SimNPO: NPO without a reference model, by the mean log-probability of an answer",
    embedded_defaults={"beta": 1.0},
)
