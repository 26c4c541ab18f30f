"""Gradient ascent: loss = -CE(forget) (+ retain loss, and then known as GradDiff).

Source: Jang et al. 2023, "Knowledge Unlearning for Mitigating Privacy Risks in Language Models", arXiv 2210.01504;
with a retain loss: Liu et al. 2022, arXiv 2203.12817, and TOFU, arXiv 2401.06121.
"""

import torch

from llm_unlearn.models.answers import Answers
from llm_unlearn.training.losses import gradient_ascent_loss
from llm_unlearn.training.trainer import UnlearnTrainer


class GradientAscentTrainer(UnlearnTrainer):
    """Raises the cross-entropy of forget answers. Unbounded: give a `stop_at_forget_*` threshold or few steps."""

    method_name = "gradient_ascent"

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        return gradient_ascent_loss(answers.forget.token_logps, reduction="none")
