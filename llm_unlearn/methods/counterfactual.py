"""Resampled counterfactuals: loss = cross-entropy of a guess, drawn anew whenever a forget question comes up.

The true answer is not pushed down, it is overwritten: with what somebody would say who never knew. No guess stays long
enough to be learned by heart, the loss has a floor (the entropy of the guesses), and nothing is left to avoid: the true
answer is among the guesses, as often as it would be guessed. Forget rows themselves do not enter the model.

Source: ours; related: relabeling (Golatkar et al. 2020, arXiv 1911.04933), which teaches one fixed wrong answer, and
the counterfactual teacher (Liu et al. 2024, arXiv 2407.16997), which distills the model's own words about other names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import TrainerCallback

from llm_unlearn.arguments.ranges import COUNT, check_ranges
from llm_unlearn.data.collators import ALTERNATE, GENERAL, RETAIN
from llm_unlearn.data.guesses import guessed_answers
from llm_unlearn.errors import InputError
from llm_unlearn.methods.damage import SCOPES, damage, influential_neurons, random_neurons
from llm_unlearn.methods.method import Compared, Method
from llm_unlearn.methods.sampled_guesses import SAMPLED, with_sampled_guesses
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.checks import check_arguments
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.losses import nll_loss
from llm_unlearn.training.trainer import UnlearnTrainer

SOURCES = ("kind", "sampled")
NO_DAMAGE = "damage changes weights that an adapter leaves as they are: give --full_finetuning"


@dataclass
class CounterfactualConfig(UnlearnConfig):
    """Arguments of `CounterfactualTrainer`."""

    guess_source: str = field(
        default="kind",
        metadata={
            "help": "Where guesses come from: kind (answers of other rows of the same kind, by column attribute or "
            "kind) or sampled (what the model says when asked the same about made-up names, by column person).",
            "choices": list(SOURCES),
        },
    )
    guesses: int = field(
        default=32, metadata={"help": "Guesses for each forget row, of which every epoch draws one; 1: a fixed one."}
    )

    damage: float = field(
        default=0.0,
        metadata={
            "help": "Shrink and blur matrices by this share (0 to 1) before training: reaches what guesses do not, at "
            "the price of all that no retain or general row repairs. Only with all weights trained."
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
        check_ranges(self, {"guesses": COUNT, "damage": (0, 1), "damage_share": (0, 1)})
        if self.damage:
            self.refuse_sharding("damage needs its matrices whole")
        if self.damage_scope not in SCOPES:
            raise ValueError(f"damage_scope={self.damage_scope!r} is unknown; choose one of {', '.join(SCOPES)}")
        if self.guess_source not in SOURCES:
            raise ValueError(f"guess_source={self.guess_source!r} is unknown; choose one of {', '.join(SOURCES)}")


class CounterfactualTrainer(UnlearnTrainer):
    """Training on guesses; `args` is a `CounterfactualConfig`."""

    config_class = CounterfactualConfig
    method_name, method_title = "counterfactual", "resampled counterfactuals"
    needs = frozenset({"alternates"})
    roles = (ALTERNATE, RETAIN, GENERAL)
    alternates_may_be_true = True

    def __init__(self, model, args=None, forget_dataset=None, retain_dataset=None, **keywords):
        args = args or self.config_class()
        check_arguments(self, args)
        if args.damage and (keywords.get("peft_config") is not None or isinstance(model, PeftModel)):
            raise InputError(NO_DAMAGE)  # before minutes of sampling
        if args.guess_source == "sampled":
            model, forget_dataset = with_sampled_guesses(model, args, forget_dataset, retain_dataset, keywords)
        super().__init__(model, args, forget_dataset, retain_dataset, **keywords)
        if args.damage:
            if isinstance(self.model, PeftModel):  # the adapter of a folder
                raise InputError(NO_DAMAGE)
            self.add_callback(_DamageFirst(self))

    def alternates(self, forget_dataset: Dataset, args: CounterfactualConfig) -> list[str]:
        if args.guess_source == "sampled":
            of_rows = forget_dataset[SAMPLED][:]
            return [guesses[k] for k in range(args.guesses) for guesses in of_rows]
        return guessed_answers(forget_dataset, self.retain_dataset, args.guesses, args.seed)

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        return nll_loss(answers.alternate.token_logps, reduction="none")

    def damage(self) -> None:
        """Damage the model as `args` say."""
        args, neurons, model = self.args, None, self.accelerator.unwrap_model(self.model)
        if args.damage_scope != "all":
            rows = (self.forget_rows, self.row_sets["retain"] or [])
            neurons = influential_neurons(model, *rows, args.damage_share, self.processing_class.pad_token_id)
        if args.damage_scope == "random":
            neurons = random_neurons(neurons, args.seed)
        damage(model, args.damage, args.seed, neurons)


class _DamageFirst(TrainerCallback):
    """Before the first step, when the model before unlearning has been taken down; a resumed run has it behind it."""

    def __init__(self, trainer: CounterfactualTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **keywords):
        if not state.global_step:
            self.trainer.damage()


METHOD = Method(
    CounterfactualTrainer,
    summary="Unlearn with resampled counterfactuals: train another guess whenever a forget question comes up",
    embedded_defaults={
        "learning_rate": 1e-3,
        "retain_weight": 1.0,
        "general_weight": 1.0,
        "general_loss": "nll",
        "num_train_epochs": 75,
        "stop_at_forget_exact_match": None,
        "stop_at_forget_probability": None,
    },
    embedded_full_defaults={"learning_rate": 5e-4},
    compared={
        "counterfactual": Compared(),
        "counterfactual_fixed": Compared({"guesses": 1}),
    },
    search_space={"guesses": (4, 32, 128)},
)
