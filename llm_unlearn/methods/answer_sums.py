"""What one unit of a forget loss is that sums over an answer's tokens (NPO, DPO), so that weights keep their meaning.

The retain loss is a mean over tokens. A loss on the log-probability of a whole answer has a gradient that is as many
times larger as the answer has tokens: with `retain_weight` 1, retained rows weigh a fifth beside answers of five
tokens, and a thirtieth beside sentences of thirty. Per token, both have the same unit whatever the length.
"""

from dataclasses import dataclass, field

import torch

UNITS = ("token", "answer")


@dataclass
class AnswerSumConfig:
    """Mixed into the arguments of methods whose forget loss is one value per answer, of its summed log-probability."""

    forget_loss_unit: str = field(
        default="token",
        metadata={
            "help": "token (each row's loss divided by the number of its answer's tokens: retain_weight means the same "
            "for answers of any length) or answer (as published).",
            "choices": list(UNITS),
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.forget_loss_unit not in UNITS:
            raise ValueError(f"forget_loss_unit={self.forget_loss_unit!r} is unknown; choose one of {', '.join(UNITS)}")

    def in_unit(self, losses: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Losses of rows, shape (rows,), in the unit that is chosen; `lengths` are the answers' tokens."""
        return losses / lengths if self.forget_loss_unit == "token" else losses
