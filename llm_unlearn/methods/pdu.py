"""PDU: minimize the forget loss subject to retain loss <= epsilon; the retain weight is the constraint's multiplier.

The forget loss is mean over answer tokens of (max_v z_v - mean_v z_v)^2, z the logits: it flattens them. After every
step a <- max(0, a + eta (retain loss - epsilon)), from `retain_weight` on: retain rows weigh more as long as they
suffer, and less once they are kept. For the first `dual_warmup_steps` steps a stays as it is.

Source: Entesari et al. 2025, "Constrained Entropic Unlearning: A Primal-Dual Framework", arXiv 2506.05314 (eta 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from llm_unlearn.arguments.ranges import COUNT_OR_NONE, NOT_NEGATIVE, check_ranges
from llm_unlearn.methods.method import Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.losses import logit_margin_loss
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass
class PDUConfig(UnlearnConfig):
    """Arguments of `PDUTrainer`."""

    epsilon: float | None = field(
        default=None,
        metadata={"help": "Highest retain loss that is allowed: a little above the original's, in nats a token."},
    )
    dual_step_size: float = field(default=1.0, metadata={"help": "eta: how fast the retain weight moves (paper: 1)."})
    dual_warmup_steps: int = field(default=0, metadata={"help": "Steps for which the retain weight stays as it is."})

    def __post_init__(self):
        super().__post_init__()
        if self.epsilon is None:
            raise ValueError(
                "epsilon is missing: the highest retain loss that is allowed, in nats a token; give one a little above "
                "the retain/loss that the first log line of any method shows"
            )
        if self.retain_loss == "none":
            raise ValueError("retain_loss='none' leaves PDU without its constraint; choose nll or kl")
        check_ranges(
            self, {"epsilon": NOT_NEGATIVE, "dual_step_size": NOT_NEGATIVE, "dual_warmup_steps": COUNT_OR_NONE}
        )


class PDUTrainer(UnlearnTrainer):
    """Primal-dual unlearning; `args` is a `PDUConfig`."""

    config_class = PDUConfig
    method_name, method_title = "pdu", "PDU"
    paper = Paper("2506.05314", "Entesari and others", 2025, "Constrained Entropic Unlearning: A Primal-Dual Framework")
    needs = frozenset({"logits"})

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        return logit_margin_loss(answers.forget.logits, reduction="none")

    @property
    def part_weights(self) -> dict[str, float]:
        return super().part_weights | {"retain": self.multiplier}

    def observe_parts(self, parts: dict[str, torch.Tensor]) -> None:
        self._retain += parts["retain"].detach()

    def before_update(self) -> None:
        args, processes = self.args, self.accelerator.num_processes
        self.add_to_log("retain/weight", torch.tensor(self.multiplier / processes, device=args.device))
        if self.state.global_step >= args.dual_warmup_steps:
            excess = self.accelerator.reduce(self._retain, "sum").item() - args.epsilon
            self.multiplier = max(0.0, self.multiplier + args.dual_step_size * excess)
        self._retain = torch.zeros((), device=args.device)

    def method_state(self) -> dict[str, torch.Tensor]:
        return {"multiplier": torch.tensor(self.multiplier, dtype=torch.float64)}

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        self.multiplier = float(state.get("multiplier", self.args.retain_weight))
        self._retain = torch.zeros((), device=self.args.device)


METHOD = Method(
    PDUTrainer,
    summary="Unlearn with PDU (primal-dual): flatten forget logits under a limit on the retain loss",
    embedded_defaults={"epsilon": 0.05, "forget_weight": 0.01},
    search_space={"epsilon": (0.02, 0.05, 0.1), "dual_step_size": (1.0, 10.0)},
)
