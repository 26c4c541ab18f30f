"""CE-U: loss = cross-entropy of every forget answer token against softmax(z) without the true token, z held constant.

The target is what the model itself would say if the true token did not exist; where that token is as good as gone, the
gradient is, too.

Source: Yang 2025, "CE-U: Cross Entropy Unlearning", arXiv 2503.01224, eq. 6.
"""

from dataclasses import dataclass

import torch

from llm_unlearn.methods.method import Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.losses import cross_entropy_without_label
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass
class CEUConfig(UnlearnConfig):
    """Arguments of `CEUTrainer`: it has none of its own."""


class CEUTrainer(UnlearnTrainer):
    """Cross-entropy unlearning."""

    config_class = CEUConfig
    method_name, method_title = "ce_u", "CE-U"
    paper = Paper("2503.01224", "Yang", 2025, "CE-U: Cross Entropy Unlearning")
    needs = frozenset({"logits"})

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        return cross_entropy_without_label(answers.forget.logits, answers.forget.labels, reduction="none")


METHOD = Method(
    CEUTrainer,
    summary="Unlearn with CE-U: the model's own distribution without the true token is the target",
)
