"""Retain rows alone: the control that says how much is forgotten by further training on everything else.

loss = retain_weight retain + general_weight general. No forget row enters the model.

It is no method: what a method loses or keeps beyond this control, after as many steps, is its own doing.
"""

from dataclasses import dataclass

from llm_unlearn.data.collators import GENERAL, RETAIN
from llm_unlearn.methods.method import Method
from llm_unlearn.training.config import NEVER_STOPPED, UnlearnConfig
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass
class RetainOnlyConfig(UnlearnConfig):
    """Arguments of `RetainOnlyTrainer`: it has none of its own."""

    def __post_init__(self):
        super().__post_init__()
        if self.retain_loss == "none":
            raise ValueError("retain_loss='none' leaves nothing to train on; choose nll or kl")


class RetainOnlyTrainer(UnlearnTrainer):
    """Training on retain and general rows; `args` is a `RetainOnlyConfig`."""

    config_class = RetainOnlyConfig
    method_name, method_title = "retain_only", "retain rows alone"
    roles = (RETAIN, GENERAL)


METHOD = Method(
    RetainOnlyTrainer,
    summary="Train on the retain rows alone: the control of every method, which forgets only by the way",
    # It reaches no threshold; it takes as many steps as a method does.
    embedded_defaults={"num_train_epochs": 35, **NEVER_STOPPED},
    extra_rounds=-1,  # without the forget rows
)
