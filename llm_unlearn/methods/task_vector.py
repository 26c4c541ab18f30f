"""Task vector: theta - alpha (theta_tuned - theta), where theta_tuned is the model trained further on the forget rows.

What training on the forget rows changes is taken the other way. The loss of training is their ordinary cross-entropy,
without retain rows, whose changes would be taken back as well. Where `stop_at_forget_*` thresholds are given, alpha is
the fewest tenths of `scaling_coefficient` that meet them, as the paper chooses it on rows apart; otherwise all of it.

Source: Ilharco et al. 2023, "Editing Models with Task Arithmetic", arXiv 2212.04089.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from llm_unlearn.arguments.ranges import POSITIVE, check_ranges
from llm_unlearn.errors import InputError
from llm_unlearn.methods.method import Compared, Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.losses import nll_loss
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.trainer import UnlearnTrainer

PARTS = 10


@dataclass
class TaskVectorConfig(UnlearnConfig):
    """Arguments of `TaskVectorTrainer`."""

    retain_loss: str = field(default="none", metadata={"help": "none: retain rows would be unlearned as well."})
    general_weight: float = field(default=0.0, metadata={"help": "0, for the same reason."})
    scaling_coefficient: float = field(default=1.0, metadata={"help": "alpha, or the largest that is tried."})

    def __post_init__(self):
        super().__post_init__()
        self.refuse_sharding("its parameters are moved after training, whole")
        check_ranges(self, {"scaling_coefficient": POSITIVE})
        if self.retain_loss != "none" or self.general_weight:
            raise ValueError(
                f"retain_loss={self.retain_loss!r}, general_weight={self.general_weight:g}: all that is trained is "
                "taken back afterwards, so a task vector is of forget rows alone; leave both out"
            )


class TaskVectorTrainer(UnlearnTrainer):
    """Trains on the forget rows and negates what that changed; `args` is a `TaskVectorConfig`.

    Raises:
        InputError: an adapter that came with the model, or one whose change is not linear in its second matrix.
    """

    config_class = TaskVectorConfig
    method_name, method_title = "task_vector", "task vector"
    paper = Paper("2212.04089", "Ilharco and others", 2023, "Editing Models with Task Arithmetic")

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        named = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        if hasattr(self.model, "peft_config"):
            # An adapter adds B A, and B begins as zero: B times -alpha is the whole change times -alpha. What else it
            # trains (biases, modules_to_save) is moved as it is.
            added = [value for name, value in named.items() if "lora_B" in name or "lora_embedding_B" in name]
            if not added or any(bool(value.any()) for value in added) or _is_dora(self.model):
                raise InputError("a task vector needs a fresh LoRA adapter (no DoRA), or --full_finetuning")
            named = {n: value for n, value in named.items() if "lora_A" not in n and "lora_embedding_A" not in n}
        self._moved = list(named.values())
        self._before = [value.detach().clone() for value in self._moved]

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        return nll_loss(answers.forget.token_logps, reduction="none")

    def train(self, resume_from_checkpoint=None, **keywords):
        output = super().train(resume_from_checkpoint, **keywords)
        self._negate()
        return output

    @torch.no_grad()
    def _negate(self) -> None:
        changes = [value - before for value, before in zip(self._moved, self._before, strict=True)]
        for part in range(1 if self.args.stopping_thresholds else PARTS, PARTS + 1):
            alpha = self.args.scaling_coefficient * part / PARTS
            for value, before, change in zip(self._moved, self._before, changes, strict=True):
                value.copy_(before - alpha * change)
            if reached := self.scores.thresholds_reached():
                self.scores.stopped_by = f"{reached} (alpha {alpha:g})"
                break
        self.state.log_history.append({"step": self.state.global_step, "scaling_coefficient": alpha})


def _is_dora(model: torch.nn.Module) -> bool:
    return any(getattr(config, "use_dora", False) for config in model.peft_config.values())


METHOD = Method(
    TaskVectorTrainer,
    summary="Unlearn with a task vector: what further training on the forget rows changes is taken the other way",
    embedded_defaults={
        "retain_loss": "none",
        "general_weight": 0.0,
        "scaling_coefficient": 10.0,
        "num_train_epochs": 10,
    },
    compared={"task_vector": Compared({"retain_loss": "none", "general_weight": 0.0, "num_train_epochs": 10})},
    search_space={"scaling_coefficient": (3.0, 10.0, 30.0), "num_train_epochs": (5, 20)},
    extra_rounds=-1,  # without the retain rows
)
