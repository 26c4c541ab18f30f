"""UNDIAL: loss = cross-entropy of every forget answer token against softmax(z_reference - beta onehot(true token)).

What the model said before is distilled into it again, with the true token's logit lowered: a fixed target, so that the
loss has a floor and nothing collapses.

Source: Dong et al. 2024, "UNDIAL", arXiv 2402.10052, eq. 3 and 4 (beta 10 with LoRA, 2 to 3 with all weights).
"""

from dataclasses import dataclass, field

import torch

from llm_unlearn.arguments.ranges import POSITIVE, check_ranges
from llm_unlearn.methods.method import Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.losses import adjusted_distillation_loss
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass
class UNDIALConfig(UnlearnConfig):
    """Arguments of `UNDIALTrainer`."""

    beta: float = field(default=10.0, metadata={"help": "By how much the true token's logit is lowered (paper: 10)."})

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, {"beta": POSITIVE})


class UNDIALTrainer(UnlearnTrainer):
    """Self-distillation with adjusted logits; `args` is a `UNDIALConfig`."""

    config_class = UNDIALConfig
    method_name, method_title = "undial", "UNDIAL"
    paper = Paper("2402.10052", "Dong and others", 2024, "UNDIAL: Self-Distillation with Adjusted Logits")
    needs = frozenset({"reference_logits"})

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        forget = answers.forget
        return adjusted_distillation_loss(
            forget.logits, forget.reference_logits, forget.labels, self.args.beta, reduction="none"
        )


METHOD = Method(
    UNDIALTrainer,
    summary="Unlearn with UNDIAL: the model's own distribution of before, with the true token's logit lowered",
    search_space={"beta": (3.0, 10.0, 30.0)},
    extra_forwards=1,  # of the reference
)
