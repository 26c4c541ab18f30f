"""UNDO: distill an unlearned model into a damaged copy of itself.

What an unlearned model says no longer gives the forgotten away, but its weights may. So the weights are damaged,
W <- (1 - a) W + 0.1 a N, and repaired by what the model said before:
loss = retain_weight KL(teacher || model) on retain rows + general_weight KL(teacher || model) on general rows.
No forget row enters the model. With a = 1 this is distillation into a student that never knew anything.

Without `teacher`, the model that was given is its own teacher: the control, which shows what damage alone takes away.

Source: Lee et al. 2025, "Distillation Robustifies Unlearning", arXiv 2506.06278, section 5 (a 0.1 to 0.8, b 0.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llm_unlearn.methods.damage import weights_for
from llm_unlearn.methods.damage_first import DamageConfig, DamageFirstTrainer
from llm_unlearn.methods.method import Compared, Method
from llm_unlearn.methods.retain_only import RetainOnlyConfig, RetainOnlyTrainer
from llm_unlearn.models.loading import load_model
from llm_unlearn.training.config import NEVER_STOPPED
from llm_unlearn.training.paper import Paper


@dataclass
class UndoConfig(DamageConfig, RetainOnlyConfig):
    """Arguments of `UndoTrainer`."""

    damage: float = field(
        default=0.6,
        metadata={"help": "Shrink and blur matrices by this share (0 to 1) first; 1 leaves noise alone."},
    )
    retain_loss: str = field(
        default="kl",
        metadata={
            "help": "kl (what the teacher says on retain rows) or nll (their answers).",
            "choices": ["nll", "kl"],
        },
    )
    general_loss: str = field(
        default="kl", metadata={"help": "The same on general rows: kl or nll.", "choices": ["nll", "kl"]}
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "An unlearned model: folder or hub id, of an adapter of the model or of one of the same shape. It "
            "is what is damaged, and what it says is what is learned again. Default: the model itself (the control)."
        },
    )


class UndoTrainer(DamageFirstTrainer, RetainOnlyTrainer):
    """Damage, then distillation on retain and general rows; `args` is an `UndoConfig`.

    Raises:
        InputError: an adapter that is to be trained, or a teacher of another shape.
    """

    config_class = UndoConfig
    method_name, method_title = "undo", "UNDO"
    paper = Paper("2506.06278", "Lee and others", 2025, "Distillation Robustifies Unlearning")

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        if self.args.teacher is not None:
            weights = weights_for(self.model, load_model(self.args.teacher), f"teacher={self.args.teacher!r}")
            self.model.load_state_dict(weights)


METHOD = Method(
    UndoTrainer,
    summary="UNDO: distill an unlearned model into a damaged copy of itself, meant to leave behind what it hid",
    embedded_defaults={
        "retain_weight": 1.0,
        "general_weight": 1.0,
        "num_train_epochs": 60,
        **NEVER_STOPPED,
    },
    embedded_full_defaults={"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 20},
    compared={"undo": Compared()},
    search_space={"damage": (0.3, 0.6, 0.8)},
    extra_rounds=-1,  # without the forget rows
    extra_forwards=1,  # of the teacher
)
