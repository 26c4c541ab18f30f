"""Influence of trainable scalars: the regularizer of Ssiuu as its Algorithm 1 was published.

Influence of a scalar phi is A = phi * g with g the gradient, held constant, of the answers' score averaged over the
*whole* forget set: between two steps only influence on the same rows can be compared. Where A is negative, it is drawn
to a reference: (A_reference - phi g)^2.

Source: Yang et al., "Erase or Hide?", arXiv 2509.22263, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from llm_unlearn.data.collators import FORGET, EncodedRow, pad_rows
from llm_unlearn.methods.attribution import answer_scores
from llm_unlearn.models.answers import forward_answers
from llm_unlearn.models.scoring import evaluation_mode


class ParameterInfluence:
    """Influence of `parameters` in the present step, and what their negative influence is drawn to.

    Args:
        reference: "previous" (the step before), "original" (the first step, before any change) or "zero".
    """

    def __init__(self, parameters: Sequence[torch.Tensor], reference: str):
        self.parameters = list(parameters)
        self.reference = reference
        self.step: int | None = None
        self.gradients: list[torch.Tensor] = []
        self.references: list[torch.Tensor] = []
        self.current: list[torch.Tensor] = []

    def update(self, step: int, gradients: list[torch.Tensor]) -> None:
        """Once in every optimizer step: g of every parameter, at the parameters as they are now."""
        influences = [(p * g).detach() for p, g in zip(self.parameters, gradients, strict=True)]
        if self.reference == "zero":
            self.references = [torch.zeros_like(one) for one in influences]
        elif self.reference == "previous":
            self.references = self.current or influences  # of the first step: no difference yet
        elif not self.references:
            self.references = influences
        self.step, self.gradients, self.current = step, gradients, influences

    def state(self) -> dict[str, torch.Tensor]:
        """What the following steps depend on, for a checkpoint."""
        kept = {"previous": self.current, "original": self.references, "zero": []}[self.reference]
        return {f"{self.reference}.{number}": influences for number, influences in enumerate(kept)}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what `state` returned; {}: start anew."""
        kept = [state[f"{self.reference}.{number}"] for number in range(len(state))]
        self.step, self.gradients, self.current, self.references = None, [], kept, kept

    def penalty(self) -> torch.Tensor:
        """Sum over scalars of negative influence of (A_reference - A)^2, a scalar."""
        total = torch.zeros((), device=self.parameters[0].device)
        for parameter, gradient, reference in zip(self.parameters, self.gradients, self.references, strict=True):
            influences = parameter * gradient
            total = total + torch.where(influences.detach() < 0, (reference - influences) ** 2, 0).sum()
        return total


def forget_set_gradients(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    parameters: Sequence[torch.Tensor],
    accelerator: Accelerator,
    batch_size: int,
    influence_of: str = "probability",
) -> list[torch.Tensor]:
    """d(mean of `answer_scores` over `rows`) / d parameter, without dropout; every process takes a share of the rows.

    Costs a forward and a backward over the rows.
    """
    share = [rows[i] for i in range(accelerator.process_index, len(rows), accelerator.num_processes)]
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    with evaluation_mode(model), torch.enable_grad():
        for start in range(0, len(share), batch_size):
            batch = pad_rows(share[start : start + batch_size], pad_token_id=0)
            batch["roles"] = torch.full((len(batch["labels"]),), FORGET)
            answers = forward_answers(model, {name: value.to(accelerator.device) for name, value in batch.items()})
            score = answer_scores(answers, influence_of).sum() / len(rows)
            for total, gradient in zip(gradients, torch.autograd.grad(score, parameters), strict=True):
                total += gradient
    return [accelerator.reduce(gradient, "sum") for gradient in gradients]
