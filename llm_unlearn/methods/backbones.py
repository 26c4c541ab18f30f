"""Methods that change how a forget loss is trained, not the loss itself: which one is a choice (`args.backbone`)."""

from dataclasses import dataclass, field

import torch

from llm_unlearn.methods.keywords import KeywordTrainer
from llm_unlearn.methods.npo import NPOConfig
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.losses import gradient_ascent_loss, npo_loss

BACKBONES = ("npo", "gradient_ascent")


@dataclass
class BackboneConfig(NPOConfig):
    """Arguments of methods that train a forget loss of choice in a way of their own."""

    backbone: str = field(
        default="npo",
        metadata={"help": "Forget loss that the method builds on: npo or gradient_ascent.", "choices": list(BACKBONES)},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone={self.backbone!r} is unknown; choose one of {', '.join(BACKBONES)}")


class BackboneTrainer(KeywordTrainer):
    """NPO or gradient ascent on the forget rows, as `args.backbone` says; the base of SAM and Ssiuu."""

    config_class = BackboneConfig

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference_logps"} if self.args.backbone == "npo" else ())

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        forget = answers.forget
        if self.args.backbone == "gradient_ascent":
            return forget.weighted(gradient_ascent_loss(forget.token_logps, reduction="none"))
        losses = npo_loss(forget.logps, forget.reference_logps, self.args.beta, reduction="none")
        return self.args.in_unit(losses, forget.tokens)
