"""Negative preference optimization: loss = mean over rows of -(2/beta) log sigmoid(beta (nll - nll_reference)) / T.

T is the number of the answer's tokens; as published there is none (`forget_loss_unit answer`).
The gradient is gradient ascent's, weighted down for rows that are forgotten already, so it does not explode.

Source: Zhang et al. 2024, "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning",
arXiv 2404.05868.
"""

from dataclasses import dataclass, field

import torch

from llm_unlearn.arguments.ranges import POSITIVE, check_ranges
from llm_unlearn.methods.answer_sums import AnswerSumConfig
from llm_unlearn.methods.keywords import KeywordConfig, KeywordTrainer
from llm_unlearn.methods.method import Compared, Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.losses import npo_loss
from llm_unlearn.training.paper import Paper


@dataclass
class NPOConfig(KeywordConfig, AnswerSumConfig, UnlearnConfig):
    """Arguments of `NPOTrainer`."""

    beta: float = field(
        default=0.1, metadata={"help": "NPO's inverse temperature (paper: 0.1 to 0.5); near 0 it is gradient ascent."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, {"beta": POSITIVE})


class NPOTrainer(KeywordTrainer):
    """NPO on the forget rows; `args` is an `NPOConfig` (field `beta`)."""

    config_class = NPOConfig
    method_name = "npo"
    method_title = "NPO"
    paper = Paper(
        "2404.05868",
        "Zhang and others",
        2024,
        "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning",
    )
    needs = frozenset({"reference_logps"})

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        forget = answers.forget
        losses = npo_loss(forget.logps, forget.reference_logps, self.args.beta, reduction="none")
        return self.args.in_unit(losses, forget.tokens)


METHOD = Method(
    NPOTrainer,
    summary="Unlearn with NPO (negative preference optimization): gradient ascent that weighs down rows already "
    "forgotten",
    embedded_defaults={"beta": 0.5, "forget_loss_unit": "answer"},
    compared={"npo": Compared(), "npo_equal_steps": Compared(steps_of="ssiuu")},
    search_space={"beta": (0.1, 0.5, 1.0)},
)
