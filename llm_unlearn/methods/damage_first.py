"""Trainers that damage the model before they train it: the fields, the refusals and the moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback

from llm_unlearn.arguments.ranges import check_ranges
from llm_unlearn.errors import InputError
from llm_unlearn.methods.damage import NOISY, SCOPES, damage, influential_neurons, random_neurons, weights_for
from llm_unlearn.models.loading import load_model
from llm_unlearn.training.checks import check_arguments
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.trainer import UnlearnTrainer

NO_DAMAGE = "damage changes weights that an adapter leaves as they are: give --full_finetuning"


@dataclass
class DamageConfig(UnlearnConfig):
    """What the arguments of these trainers have in common."""

    damage: float = field(
        default=0.0,
        metadata={
            "help": "Shrink and blur matrices by this share (0 to 1) before training: reaches what training does not, "
            "at the price of all that no retain or general row repairs. Only with all weights trained."
        },
    )
    damage_toward: str = field(
        default=NOISY,
        metadata={
            "help": "noise, or the model that this one was fine-tuned from (folder or hub id): then damage goes that "
            "share of the way back to it."
        },
    )
    damage_scope: str = field(
        default="all",
        metadata={
            "help": "all matrices, the outputs of linear maps on which forget rows have most influence, or as many at "
            "random (the control).",
            "choices": list(SCOPES),
        },
    )
    damage_share: float = field(
        default=0.1, metadata={"help": "Share of a map's outputs that damage_scope influence or random takes."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, {"damage": (0, 1), "damage_share": (0, 1)})
        if self.damage:
            self.refuse_sharding("damage needs its matrices whole")
        if self.damage_scope not in SCOPES:
            raise ValueError(f"damage_scope={self.damage_scope!r} is unknown; choose one of {', '.join(SCOPES)}")
        if self.damage_toward != NOISY and not self.damage:
            raise ValueError(f"damage_toward={self.damage_toward!r} without damage does nothing; give damage a share")


class DamageFirstTrainer(UnlearnTrainer):
    """A trainer that damages the model before its first step; `args` is a `DamageConfig`.

    Raises:
        InputError: damage, and an adapter; a model of another shape in `damage_toward`; a `damage_scope` that compares
            forget with retain rows, and no retain rows.
    """

    def __init__(self, model, args=None, *arguments, **keywords):
        args = args or self.config_class()
        check_arguments(self, args)
        refuse_adapters(model, args, keywords)
        super().__init__(model, args, *arguments, **keywords)
        if args.damage:
            if isinstance(self.model, PeftModel):  # the adapter of a folder
                raise InputError(NO_DAMAGE)
            if args.damage_scope != "all" and not self.row_sets["retain"]:
                raise InputError(
                    f"damage_scope={args.damage_scope!r} takes what forget rows need beside retain rows: give retain "
                    "rows, or damage_scope=all"
                )
            base = None
            if args.damage_toward != NOISY:
                name = f"damage_toward={args.damage_toward!r}"
                base = weights_for(self.model, load_model(args.damage_toward), name)
            self.add_callback(_BeforeTheFirstStep(self, base))

    def damage(self, base: Mapping[str, torch.Tensor] | None) -> None:
        """Damage the model as `args` say; `base`: weights of the model in `damage_toward`."""
        args, neurons, model = self.args, None, self.accelerator.unwrap_model(self.model)
        if args.damage_scope != "all":
            rows = (self.forget_rows, self.row_sets["retain"])
            neurons = influential_neurons(model, *rows, args.damage_share, self.processing_class.pad_token_id)
        if args.damage_scope == "random":
            neurons = random_neurons(neurons, args.seed)
        damage(model, args.damage, args.seed, neurons, base)


class _BeforeTheFirstStep(TrainerCallback):
    """When the model before unlearning has been taken down.

    Once: a resumed run has it behind it, and so has training that begins again (a second `train`, or a smaller batch
    after a full memory).
    """

    def __init__(self, trainer: DamageFirstTrainer, base: Mapping[str, torch.Tensor] | None):
        self.trainer, self.base, self.is_behind = trainer, base, False

    def on_train_begin(self, args, state, control, **keywords):
        if not (self.is_behind or state.global_step):
            self.trainer.damage(self.base)
        self.is_behind, self.base = True, None  # as large as the model, and needed once


def refuse_adapters(model: Any, args: DamageConfig, keywords: dict[str, Any]) -> None:
    """Before minutes of sampling.

    Raises:
        InputError: damage, and an adapter that is to be made or came with the model.
    """
    if args.damage and (keywords.get("peft_config") is not None or isinstance(model, PeftModel)):
        raise InputError(NO_DAMAGE)
