"""SAM: sharpness-aware unlearning. The gradient of the forget loss is taken where relearning would have it.

gradient = forget_weight * grad L_forget(theta + rho g / |g|) + retain_weight * grad L_retain(theta), with
g = grad L_forget(theta): one step up the forget loss is one step of relearning, so what is minimized is the forget loss
after the worst step of length rho. General rows are treated as retain rows are. Any forget loss may be wrapped; norms
are over all trainable parameters.

Source: Fan et al. 2025, "Towards LLM Unlearning Resilient to Relearning Attacks: A Sharpness-Aware Minimization
Perspective and Beyond", arXiv 2502.05374 (rho 0.01).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from llm_unlearn.arguments.ranges import NOT_NEGATIVE, check_ranges
from llm_unlearn.data.collators import ALTERNATE, FORGET, GENERAL, RETAIN
from llm_unlearn.errors import InputError
from llm_unlearn.methods.backbones import BackboneConfig, BackboneTrainer
from llm_unlearn.methods.method import Compared, Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.passes import Pass, gradient_of_step


@dataclass
class SAMConfig(BackboneConfig):
    """Arguments of `SAMTrainer`: a backbone forget loss whose gradient is taken one step up that loss."""

    rho: float = field(
        default=0.01,
        metadata={"help": "Length of the step up the forget loss, over all trainable parameters; 0 is the backbone."},
    )

    def __post_init__(self):
        super().__post_init__()
        self.refuse_sharding("SAM's step needs whole parameters")
        check_ranges(self, {"rho": NOT_NEGATIVE})


class SAMTrainer(BackboneTrainer):
    """A backbone (`args.backbone`: NPO or gradient ascent) under SAM; a subclass with another `forget_loss` is that
    loss under SAM. `args` is a `SAMConfig`.

    g belongs to the global batch (all micro-batches of the step, all processes), so it is computed once per optimizer
    step, before the first micro-batch. `forget/loss` and `forget/probability` are logged at theta; `forget/sam_loss` is
    the forget loss at theta + rho g / |g|, and it is this one that is part of `loss`.

    Cost: forget rows have two forwards and two backwards a step, all others one of each as without SAM: 1.5 times
    the backbone's operations (with general rows 1.33 times), and more of its time (docs/results/speed.md). Memory: two
    more copies of the trainable parameters. Dropout draws anew in every pass, so with it g is that of another
    subnetwork; LoRA's is off unless asked for.

    Too large a rho forgets nothing: `forget/sam_loss` is then below `forget/loss`, where it should be above.

    Raises:
        InputError: fp16, whose loss scaling knows of one backward per step; trainable parameters in half precision, in
            which so small a step would be rounded away.
    """

    config_class = SAMConfig
    method_name = "sam"
    method_title = "SAM"
    paper = Paper(
        "2502.05374",
        "Fan and others",
        2025,
        "Towards LLM Unlearning Resilient to Relearning Attacks: A Sharpness-Aware Minimization Perspective and Beyond",
    )

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self._refuse_impossible()
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._step_up: list[torch.Tensor] | None = None  # rho g / |g|, one tensor per trainable parameter
        self._is_perturbed = False

    def _refuse_impossible(self) -> None:
        if self.args.fp16:
            raise InputError("SAM cannot be trained with fp16: its loss is scaled for one backward per step; use bf16")
        halves = {p.dtype for p in self.model.parameters() if p.requires_grad} & {torch.bfloat16, torch.float16}
        if halves and self.args.rho:
            kind = str(halves.pop()).removeprefix("torch.")
            raise InputError(
                f"SAM's step of length rho={self.args.rho:g} over all parameters would be rounded away in {kind}; load "
                "the model with dtype float32 (bf16=True still computes in bfloat16), or train an adapter"
            )

    # ---- the step --------------------------------------------------------------------------------------------------

    def passes(self, model: nn.Module, counts: torch.Tensor) -> list[Pass]:
        """Forget rows at theta + rho g / |g|, all others at theta."""
        if not self.args.rho:
            return super().passes(model, counts)
        if self.step_batches:  # the first micro-batch of a step; not earlier: a resumed run restores random state late
            self._step_up = self._find_step_up(model, counts)
            self.step_batches = []
        kept = self.row_sets["retain"] is not None or self.row_sets["general"] is not None
        return [Pass((RETAIN, GENERAL))] * kept + [Pass((FORGET, ALTERNATE), self._perturbed())]

    def _find_step_up(self, model: nn.Module, counts: torch.Tensor) -> list[torch.Tensor] | None:
        """rho g / |g| of the global batch, or None where g is zero."""
        forgotten = (FORGET, ALTERNATE)
        gradients = gradient_of_step(self, model, self.step_batches, counts, forgotten, self._parameters)
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        if norm == 0:
            return None
        torch._foreach_mul_(gradients, self.args.rho / norm)  # NaN stays NaN, for `check_divergence` to find
        return gradients

    @contextlib.contextmanager
    def _perturbed(self) -> Iterator[None]:
        """Within this scope parameters are theta + rho g / |g|; after it they are theta, to the last bit."""
        parameters, step_up = (self._parameters, self._step_up) if self._step_up else ([], [])
        kept = [parameter.detach().clone() for parameter in parameters]
        self._is_perturbed = True
        try:
            with torch.no_grad():
                for parameter, offset in zip(parameters, step_up, strict=True):
                    parameter += offset
            yield
        finally:
            self._is_perturbed = False
            with torch.no_grad():
                for parameter, value in zip(parameters, kept, strict=True):
                    parameter.copy_(value)  # not `-= offset`: x + y - y is not x

    def _sum_up(self, parts: dict[str, torch.Tensor], answers: Answers, counts: torch.Tensor) -> None:
        if self._is_perturbed:  # forget rows were logged at theta, when g was computed
            self.add_to_log("forget/sam_loss", parts["forget"].detach())
        else:
            super()._sum_up(parts, answers, counts)


METHOD = Method(
    SAMTrainer,
    summary="Unlearn with SAM (sharpness-aware minimization): a forget loss that is still low after a step of "
    "relearning",
    # rho: on seed 100 a little less came back with 0.1 than with 0.01; 0.3 takes over twice as many steps, and with 1
    # nothing is forgotten at all.
    embedded_defaults={
        "beta": 0.5,
        "forget_loss_unit": "answer",
        "rho": 0.1,
        "general_weight": 200.0,
        "num_train_epochs": 120,
    },
    compared={
        "sam": Compared({"backbone": "npo"}),
        "sam_equal_steps": Compared({"backbone": "npo"}, steps_of="ssiuu"),
    },
    extra_rounds=1,
    search_space={"rho": (0.01, 0.05, 0.1)},
)
