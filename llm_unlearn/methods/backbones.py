"""Methods that change how a forget loss is trained, not the loss itself: which one is a choice (`args.backbone`)."""

import torch

from llm_unlearn.models.answers import Answers
from llm_unlearn.training.config import BackboneConfig
from llm_unlearn.training.losses import gradient_ascent_loss, npo_loss
from llm_unlearn.training.trainer import UnlearnTrainer


class BackboneTrainer(UnlearnTrainer):
    """NPO or gradient ascent on the forget rows, as `args.backbone` says; the base of SAM and Ssiuu."""

    config_class = BackboneConfig

    @property
    def needs_reference_logps(self) -> bool:
        return self.args.backbone == "npo"

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        forget = answers.forget
        if self.args.backbone == "gradient_ascent":
            return gradient_ascent_loss(forget.token_logps, reduction="none")
        return npo_loss(forget.logps, forget.reference_logps, self.args.beta, reduction="none")
