"""SimNPO: loss = mean over rows of -(2/beta) log sigmoid(beta (nll / T - delta)), T the number of the answer's tokens.

NPO without a reference: what a row has lost already is not compared with what the model said before, so that rows which
were known badly from the start are not pushed as hard as those known by heart.

Source: Fan et al. 2024, "Simplicity Prevails", arXiv 2410.07163, eq. 4 (beta 2.5 to 4.5, delta 0, forget weight 0.125).
"""

from dataclasses import dataclass, field

import torch

from llm_unlearn.arguments.ranges import NOT_NEGATIVE, POSITIVE, check_ranges
from llm_unlearn.methods.method import Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.losses import simnpo_loss
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass
class SimNPOConfig(UnlearnConfig):
    """Arguments of `SimNPOTrainer`."""

    forget_weight: float = field(default=0.125, metadata={"help": "Weight of the forget loss (paper: 0.125)."})
    beta: float = field(default=4.5, metadata={"help": "Inverse temperature (paper: 2.5 to 4.5)."})
    delta: float = field(
        default=0.0, metadata={"help": "Mean nats a token from which on a row is pushed less hard (paper: 0)."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, {"beta": POSITIVE, "delta": NOT_NEGATIVE})


class SimNPOTrainer(UnlearnTrainer):
    """SimNPO on the forget rows; `args` is a `SimNPOConfig`."""

    config_class = SimNPOConfig
    method_name, method_title = "simnpo", "SimNPO"
    paper = Paper(
        "2410.07163", "Fan and others", 2024, "Simplicity Prevails: Rethinking Negative Preference Optimization"
    )

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        forget = answers.forget
        return simnpo_loss(forget.logps, forget.lengths, self.args.beta, self.args.delta, reduction="none")


METHOD = Method(
    SimNPOTrainer,
    summary="Unlearn with SimNPO: NPO on the mean over an answer's tokens, without a reference model",
    # Its unit is a token; the weights there are those of methods whose unit is an answer, of some ten tokens.
    embedded_defaults={"forget_weight": 10.0, "beta": 1.0},
    search_space={"beta": (0.5, 1.0, 2.5, 4.5)},
)
