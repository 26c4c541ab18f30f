"""MaxEnt (ME): loss = mean over forget answer tokens of KL(model || uniform) = log V + sum_v p_v log p_v.

Every token of the vocabulary becomes equally likely where the forgotten answer stood. The loss is bounded by log V.

Source: Yuan et al. 2024, "A Closer Look at Machine Unlearning for Large Language Models", arXiv 2410.08109, eq. 6.
"""

from dataclasses import dataclass

import torch

from llm_unlearn.methods.method import Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.losses import uniform_kl_loss
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass
class MaxEntConfig(UnlearnConfig):
    """Arguments of `MaxEntTrainer`: it has none of its own."""


class MaxEntTrainer(UnlearnTrainer):
    """A blind guess as the target."""

    config_class = MaxEntConfig
    method_name, method_title = "maxent", "MaxEnt"
    paper = Paper(
        "2410.08109", "Yuan and others", 2024, "A Closer Look at Machine Unlearning for Large Language Models"
    )
    needs = frozenset({"logits"})

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        return uniform_kl_loss(answers.forget.logits, reduction="none")


METHOD = Method(
    MaxEntTrainer,
    summary="Unlearn with MaxEnt: forget answers become a blind guess over the vocabulary",
)
