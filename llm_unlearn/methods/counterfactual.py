"""Resampled counterfactuals: loss = cross-entropy of a guess, drawn anew whenever a forget question comes up.

The true answer is not pushed down, it is overwritten: with what somebody would say who never knew. No guess stays long
enough to be learned by heart, the loss has a floor (the entropy of the guesses), and nothing is left to avoid: the true
answer is among the guesses, as often as it would be guessed. Forget rows themselves do not enter the model.

Source: ours; related: relabeling (Golatkar et al. 2020, arXiv 1911.04933), which teaches one fixed wrong answer, and
the counterfactual teacher (Liu et al. 2024, arXiv 2407.16997), which distills the model's own words about other names
(`guess_source` teacher: `counterfactual_teacher`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from datasets import Dataset

from llm_unlearn.arguments.ranges import COUNT, check_ranges
from llm_unlearn.data.collators import ALTERNATE, GENERAL, RETAIN
from llm_unlearn.data.guesses import guessed_answers
from llm_unlearn.methods.counterfactual_teacher import counterfactual_teacher, teacher_loss
from llm_unlearn.methods.damage_first import DamageConfig, DamageFirstTrainer, refuse_adapters
from llm_unlearn.methods.method import Compared, Method
from llm_unlearn.methods.sampled_guesses import SAMPLED, with_sampled_guesses
from llm_unlearn.methods.teacher_questions import answers_along
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.checks import check_arguments
from llm_unlearn.training.config import NEVER_STOPPED
from llm_unlearn.training.losses import nll_loss

TEACHER = "teacher"
SOURCES = ("kind", "sampled", TEACHER)


@dataclass
class CounterfactualConfig(DamageConfig):
    """Arguments of `CounterfactualTrainer`."""

    guess_source: str = field(
        default="kind",
        metadata={
            "help": "Where guesses come from: kind (answers of other rows of the same kind, by column attribute or "
            "kind), sampled (what the model says when asked the same about made-up names, by column person) or "
            "teacher (how likely it finds each next token there, all at once).",
            "choices": list(SOURCES),
        },
    )
    guesses: int = field(
        default=32,
        metadata={
            "help": "Guesses for each forget row, of which every epoch draws one; 1: a fixed one. Of "
            "teacher: made-up names for each row."
        },
    )
    other_answers: int = field(
        default=5,
        metadata={
            "help": "Of teacher: so many answers of others to each question; every other time a row comes up, its next "
            "tokens are compared along one of them in place of its own. 0: along its own alone."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, {"guesses": COUNT, "other_answers": (0, COUNT[1])})
        if self.guess_source not in SOURCES:
            raise ValueError(f"guess_source={self.guess_source!r} is unknown; choose one of {', '.join(SOURCES)}")
        if self.guess_source == TEACHER:
            self.refuse_sharding("one process asks the whole model about made-up names")


class CounterfactualTrainer(DamageFirstTrainer):
    """Training on guesses; `args` is a `CounterfactualConfig`."""

    config_class = CounterfactualConfig
    method_name, method_title = "counterfactual", "resampled counterfactuals"
    needs = frozenset({"alternates"})
    roles = (ALTERNATE, RETAIN, GENERAL)
    alternates_may_be_true = True

    def __init__(self, model, args=None, forget_dataset=None, retain_dataset=None, **keywords):
        args = args or self.config_class()
        check_arguments(self, args)
        refuse_adapters(model, args, keywords)
        self._teacher = None
        if args.guess_source == TEACHER:
            self.needs = frozenset({"alternates", "logits"})
        elif args.guess_source == "sampled":
            model, forget_dataset = with_sampled_guesses(model, args, forget_dataset, retain_dataset, keywords)
        super().__init__(model, args, forget_dataset, retain_dataset, **keywords)
        if args.guess_source == TEACHER:
            self._teacher = counterfactual_teacher(self, self._along)

    def alternates(self, forget_dataset: Dataset, args: CounterfactualConfig) -> list[str]:
        if args.guess_source == TEACHER:
            found = answers_along(forget_dataset, self.retain_dataset, args.other_answers, args.seed)
            most = max(map(len, found)) - 1
            self._along = [
                answers[1 + k // 2 % (len(answers) - 1)] if k % 2 and len(answers) > 1 else answers[0]
                for k in range(max(1, 2 * most))
                for answers in found
            ]
            return self._along
        if args.guess_source == "sampled":
            of_rows = forget_dataset[SAMPLED][:]
            return [guesses[k] for k in range(args.guesses) for guesses in of_rows]
        return guessed_answers(forget_dataset, self.retain_dataset, args.guesses, args.seed)

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        if self._teacher is not None:
            return teacher_loss(answers.alternate, self._teacher)
        return nll_loss(answers.alternate.token_logps, reduction="none")


METHOD = Method(
    CounterfactualTrainer,
    summary="Unlearn with resampled counterfactuals: train another guess whenever a forget question comes up",
    embedded_defaults={
        "learning_rate": 1e-3,
        "retain_weight": 1.0,
        "general_weight": 1.0,
        "general_loss": "nll",
        "num_train_epochs": 75,
        **NEVER_STOPPED,
    },
    embedded_full_defaults={"learning_rate": 5e-4},
    compared={
        "counterfactual": Compared(),
        "counterfactual_fixed": Compared({"guesses": 1}),
        "counterfactual_teacher": Compared({"guess_source": TEACHER}),
    },
    search_space={"guesses": (4, 32, 128)},
)
