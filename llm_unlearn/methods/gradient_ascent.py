"""Gradient ascent: loss = -CE(forget) (+ retain loss, and then known as GradDiff).

Source: Jang et al. 2023, "Knowledge Unlearning for Mitigating Privacy Risks in Language Models", arXiv 2210.01504;
with a retain loss: Liu et al. 2022, arXiv 2203.12817, and TOFU, arXiv 2401.06121.
"""

from dataclasses import dataclass

import torch

from llm_unlearn.methods.method import Compared, Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.losses import gradient_ascent_loss
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass
class GradientAscentConfig(UnlearnConfig):
    """Arguments of `GradientAscentTrainer`; with a retain loss the method is known as GradDiff."""


class GradientAscentTrainer(UnlearnTrainer):
    """Raises the cross-entropy of forget answers. Unbounded: give a `stop_at_forget_*` threshold or few steps."""

    config_class = GradientAscentConfig
    method_name = "gradient_ascent"
    method_title = "gradient ascent"
    paper = Paper(
        "2210.01504",
        "Jang and others",
        2023,
        "Knowledge Unlearning for Mitigating Privacy Risks in Language Models",
    )

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        return gradient_ascent_loss(answers.forget.token_logps, reduction="none")


METHOD = Method(
    GradientAscentTrainer,
    summary="Unlearn with gradient ascent (with the default retain loss also known as GradDiff): raise the loss on "
    "forget answers",
    embedded_defaults={"learning_rate": 1e-3},
    compared={
        "gradient_ascent": Compared({"retain_loss": "none", "general_weight": 0.0}),
        "grad_diff": Compared(),
    },
)
