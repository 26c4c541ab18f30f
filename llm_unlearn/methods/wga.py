"""WGA: loss = mean over forget answer tokens of p^beta log p, the weight p^beta held constant.

Gradient ascent that a token leaves as it is forgotten; with beta 0 it is gradient ascent.

Source: Wang et al. 2025, "Rethinking LLM Unlearning Objectives: A Gradient Perspective", arXiv 2502.19301 (beta 1).
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
class WGAConfig(UnlearnConfig):
    """Arguments of `WGATrainer`."""

    beta: float = field(
        default=1.0,
        metadata={"help": "Exponent of a token's probability in its weight (paper: 1); 0: gradient ascent."},
    )

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, {"beta": NOT_NEGATIVE})


class WGATrainer(UnlearnTrainer):
    """Weighted gradient ascent; `args` is a `WGAConfig`."""

    config_class = WGAConfig
    method_name, method_title = "wga", "WGA"
    paper = Paper("2502.19301", "Wang and others", 2025, "Rethinking LLM Unlearning Objectives: A Gradient Perspective")

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        return weighted_ascent_loss(answers.forget.token_logps, self.args.beta, 0.0, reduction="none")


METHOD = Method(
    WGATrainer,
    summary="Unlearn with WGA (weighted gradient ascent): tokens count by their probability, so forgotten ones stop",
    # Its unit is a token; the weights there are those of methods whose unit is an answer, of some ten tokens.
    embedded_defaults={"forget_weight": 10.0},
    search_space={"beta": (0.5, 1.0, 2.0)},
)
