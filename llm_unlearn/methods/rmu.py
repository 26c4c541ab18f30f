"""RMU: loss = forget_weight MSE(h_f, c u) + retain_weight MSE(h_r, h_r before); h is one block's output where an
answer token is predicted, u a random direction of length 1. Later blocks cannot read what was led astray. Adaptive RMU
takes c |h_f before| in place of c, token by token, which means the same in every block.

Sources: Li et al. 2024, arXiv 2403.03218, where every token of a row counts; adaptive: Dang et al. 2024, arXiv
2408.06223, eq. 9.
"""

from dataclasses import dataclass, field

import torch

from llm_unlearn.arguments.ranges import NOT_NEGATIVE, check_ranges
from llm_unlearn.methods.method import Method
from llm_unlearn.models.linear_maps import train_only_blocks
from llm_unlearn.training.config import KEEPING_LOSSES, UnlearnConfig
from llm_unlearn.training.losses import hidden_states_loss
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.trainer import UnlearnTrainer

KEPT = {"help": "hidden_states (what the block gives stays as it was), nll, kl; none: for retain rows only."}


@dataclass
class RMUConfig(UnlearnConfig):
    """Arguments of `RMUTrainer`."""

    keeping_losses = ("hidden_states", *KEEPING_LOSSES)
    retain_loss: str = field(default="hidden_states", metadata=KEPT)
    general_loss: str = field(default="hidden_states", metadata=KEPT)
    layer: int = field(default=7, metadata={"help": "Block whose outputs are steered, from 0 (paper: 7 of 32)."})
    steering_coefficient: float = field(default=20.0, metadata={"help": "c (paper: 6.5 and 300; adaptive: 3 to 10)."})
    adaptive: bool = field(default=False, metadata={"help": "c counts in lengths of the hidden state before."})

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, {"layer": NOT_NEGATIVE, "steering_coefficient": NOT_NEGATIVE})


class RMUTrainer(UnlearnTrainer):
    """Trains what an adapter has in three blocks, or their down-projections; `args` is an `RMUConfig`."""

    config_class = RMUConfig
    method_name, method_title = "rmu", "RMU"
    paper = Paper("2403.03218", "Li and others", 2024, "The WMDP Benchmark")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference_hidden_states"} if self.args.adaptive else ())

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.hidden_layers = [self.args.layer]
        train_only_blocks(self.model, last=self.args.layer, count=3)
        width = self.model.config.get_text_config().hidden_size
        direction = torch.rand(width, generator=torch.Generator().manual_seed(self.args.seed))
        self.target = (self.args.steering_coefficient * direction / direction.norm()).to(self.args.device)

    def forget_loss(self, answers) -> torch.Tensor:
        forget, layer, target = answers.forget, self.args.layer, self.target
        if self.args.adaptive:
            target = forget.reference_hidden_states[layer].float().norm(dim=-1, keepdim=True) * target
        return hidden_states_loss(forget.hidden_states[layer], target, reduction="none")


METHOD = Method(
    RMUTrainer,
    summary="Unlearn with RMU (representation misdirection): a block's output on forget rows is led astray",
    embedded_defaults={"layer": 1},
    search_space={"layer": (0, 1), "steering_coefficient": (5.0, 20.0)},
)
