"""DPO: loss = mean over rows of -(2/beta) log sigmoid(beta ((lp_a - lp_a_reference) - (lp_f - lp_f_reference))) / T.

lp_f is the log-probability of the forgotten answer, lp_a that of another answer to the same question: a refusal, or
what a column says. The other answer is preferred to the forgotten one, which has T tokens; as published, T is absent
(`forget_loss_unit answer`).

Source: Rafailov et al. 2023, arXiv 2305.18290; with refusals: Maini et al. 2024 (TOFU), arXiv 2401.06121.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from llm_unlearn.arguments.ranges import POSITIVE, check_ranges
from llm_unlearn.methods.alternates import AlternateConfig, AlternateTrainer
from llm_unlearn.methods.answer_sums import AnswerSumConfig
from llm_unlearn.methods.method import Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.losses import dpo_loss
from llm_unlearn.training.paper import Paper


@dataclass
class DPOConfig(AnswerSumConfig, AlternateConfig):
    """Arguments of `DPOTrainer`."""

    beta: float = field(default=0.1, metadata={"help": "DPO's inverse temperature (TOFU: 0.1)."})

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, {"beta": POSITIVE})


class DPOTrainer(AlternateTrainer):
    """DPO with the forgotten answers as those that are not preferred; `args` is a `DPOConfig`."""

    config_class = DPOConfig
    method_name = "dpo"
    method_title = "DPO"
    paper = Paper("2305.18290", "Rafailov and others", 2023, "Direct Preference Optimization")
    needs = AlternateTrainer.needs | {"reference_logps"}

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        forget, other = answers.forget, answers.alternate
        reference = other.reference_logps - forget.reference_logps
        losses = dpo_loss(other.logps - forget.logps, reference, self.args.beta, reduction="none")
        return self.args.in_unit(losses, forget.lengths)


METHOD = Method(
    DPOTrainer,
    summary="Unlearn with DPO (direct preference optimization): another answer, such as a refusal, is preferred to "
    "the forgotten one",
    embedded_defaults={"forget_loss_unit": "answer"},
    extra_rounds=1,  # of the other answers
    search_space={"beta": (0.05, 0.1, 0.5)},
)
