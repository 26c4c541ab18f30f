"""Negative preference optimization: loss = mean over rows of -(2/beta) log sigmoid(beta (nll - nll_reference)).

The gradient is gradient ascent's, weighted down for rows that are forgotten already, so it does not explode.

Source: Zhang et al. 2024, "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning",
arXiv 2404.05868.
"""

import torch

from llm_unlearn.models.answers import Answers
from llm_unlearn.training.config import NPOConfig
from llm_unlearn.training.losses import npo_loss
from llm_unlearn.training.trainer import UnlearnTrainer


class NPOTrainer(UnlearnTrainer):
    """NPO on the forget rows; `args` is an `NPOConfig` (field `beta`)."""

    config_class = NPOConfig
    method_name = "npo"
    needs_reference_logps = True

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        forget = answers.forget
        return npo_loss(forget.logps, forget.reference_logps, self.args.beta, reduction="none")
