"""Rewind: go back to a checkpoint before the data, and train on the retain rows from there.

No gradient of a forget row, and no weight that ever had one. Where the checkpoint and the retain rows are all that the
model was made of, what comes out never knew the forget rows: the exact answer, at the price of the training. What the
checkpoint did not know, and retain and general rows do not say, is lost.

Source: Mu and Klabjan 2024, "Rewind-to-Delete", arXiv 2409.09778, which goes back part of the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, set_seed

from llm_unlearn.errors import InputError
from llm_unlearn.methods.damage import weights_for
from llm_unlearn.methods.method import Method
from llm_unlearn.methods.retain_only import RetainOnlyConfig, RetainOnlyTrainer
from llm_unlearn.models.loading import load_model
from llm_unlearn.training.config import NEVER_STOPPED
from llm_unlearn.training.losses import COMPARING_LOSSES
from llm_unlearn.training.paper import Paper

UNTRAINED = "untrained"


@dataclass
class RewindConfig(RetainOnlyConfig):
    """Arguments of `RewindTrainer`."""

    rewind_to: str | None = field(
        default=None,
        metadata={
            "help": "The checkpoint before the data: a folder or hub id of a model of the same shape, or untrained "
            "(fresh weights, which the seed draws)."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.rewind_to is None:
            raise ValueError(
                "rewind_to is missing: the checkpoint before the data, such as the base model that was fine-tuned"
            )
        for name in ("retain_loss", "general_loss"):
            if getattr(self, name) in COMPARING_LOSSES:
                raise ValueError(f"{name}={getattr(self, name)!r} would compare with the checkpoint; choose nll")
        for score, limit in self.stopping_thresholds.items():
            raise ValueError(
                f"stop_at_forget_{score}={limit} would hold at the first check, since the checkpoint does not know the "
                "forget rows; leave it out"
            )


class RewindTrainer(RetainOnlyTrainer):
    """Training on retain rows from an earlier checkpoint; `args` is a `RewindConfig`.

    Raises:
        InputError: an adapter, or a checkpoint of another shape.
    """

    config_class = RewindConfig
    method_name, method_title = "rewind", "rewinding"
    paper = Paper("2409.09778", "Mu and Klabjan", 2024, "Rewind-to-Delete: Certified Machine Unlearning")

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        if isinstance(self.model, PeftModel):
            raise InputError("rewind puts an earlier checkpoint in the place of all weights: give --full_finetuning")
        self.model.load_state_dict(weights_for(self.model, self._checkpoint(), f"rewind_to={self.args.rewind_to!r}"))

    def _checkpoint(self) -> nn.Module:
        if self.args.rewind_to != UNTRAINED:
            return load_model(self.args.rewind_to)
        set_seed(self.args.seed)
        return AutoModelForCausalLM.from_config(self.model.config)


METHOD = Method(
    RewindTrainer,
    summary="Rewind: train on the retain rows from a checkpoint before the data, the exact answer where there is one",
    embedded_defaults={
        "rewind_to": UNTRAINED,
        "general_loss": "nll",
        "retain_weight": 1.0,
        "general_weight": 1.0,
        **NEVER_STOPPED,  # an untrained model would be, at once
    },
    # As the small world's own models are trained.
    embedded_full_defaults={
        "learning_rate": 2.2e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 50,
        "num_train_epochs": 120,
    },
)
