"""IDK: loss = mean over rows of the negative log-likelihood per token of a refusal to each forget question.

Nothing is done to the forgotten answer itself: the refusal only becomes likelier than it. A column of the forget rows
may say something else instead.

Source: Maini et al. 2024 (TOFU), arXiv 2401.06121, where it is called preference optimization.
"""

from __future__ import annotations

import torch

from llm_unlearn.data.collators import ALTERNATE, GENERAL, RETAIN
from llm_unlearn.methods.alternates import AlternateTrainer
from llm_unlearn.methods.method import Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.paper import Paper


class IDKTrainer(AlternateTrainer):
    """Supervised training on refusals; `args` is an `AlternateConfig`."""

    method_name = "idk"
    method_title = "IDK"
    paper = Paper("2401.06121", "Maini and others", 2024, "TOFU: A Task of Fictitious Unlearning for LLMs")
    roles = (ALTERNATE, RETAIN, GENERAL)

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        return -answers.alternate.logps / answers.alternate.lengths


METHOD = Method(
    IDKTrainer,
    summary="Unlearn with IDK: train refusals to the forget questions",
)
