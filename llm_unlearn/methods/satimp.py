"""SatImp: loss = mean over forget answer tokens of p^beta1 (1 - p)^beta2 log p, the weight held constant.

Gradient ascent on tokens that are neither forgotten (saturation, beta1) nor certain (importance, beta2).

Source: Yang et al. 2025, "Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning", arXiv 2505.11953 (beta1 5,
beta2 1, forget weight 0.1).
"""

from dataclasses import dataclass, field

import torch

from llm_unlearn.arguments.ranges import NOT_NEGATIVE, check_ranges
from llm_unlearn.methods.method import Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.losses import weighted_ascent_loss
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass
class SatImpConfig(UnlearnConfig):
    """Arguments of `SatImpTrainer`."""

    forget_weight: float = field(default=0.1, metadata={"help": "Weight of the forget loss (paper: 0.1)."})
    beta1: float = field(default=5.0, metadata={"help": "Exponent of a token's probability in its weight (paper: 5)."})
    beta2: float = field(default=1.0, metadata={"help": "Exponent of one minus its probability (paper: 1)."})

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, {"beta1": NOT_NEGATIVE, "beta2": NOT_NEGATIVE})


class SatImpTrainer(UnlearnTrainer):
    """Gradient ascent weighted by saturation and importance; `args` is a `SatImpConfig`."""

    config_class = SatImpConfig
    method_name, method_title = "satimp", "SatImp"
    paper = Paper(
        "2505.11953", "Yang and others", 2025, "Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning"
    )

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        args = self.args
        return weighted_ascent_loss(answers.forget.token_logps, args.beta1, args.beta2, reduction="none")


METHOD = Method(
    SatImpTrainer,
    summary="Unlearn with SatImp: gradient ascent on tokens that are neither forgotten nor certain",
    embedded_defaults={"forget_weight": 100.0},  # certain tokens, which all are there, have a hundredth of the weight
    search_space={"beta1": (1.0, 5.0), "beta2": (0.1, 1.0)},
)
