"""Ssiuu as published: loss = backbone + retain + weight * sum over scalars with A < 0 of (A_reference - A)^2.

A = phi g is the influence of a trainable scalar phi, with g the gradient, held constant, of the answers' probability
averaged over the whole forget set; A_reference is A one step before. It changes hardly anything: where an answer is
certain, and where it is forgotten, its probability has no gradient (docs/results/ssiuu.md).

Source: Yang et al., "Erase or Hide?", arXiv 2509.22263, Algorithm 1 (weight 1e-3 and 1e-4).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from llm_unlearn.arguments.ranges import NOT_NEGATIVE, check_ranges
from llm_unlearn.methods.backbones import BackboneConfig, BackboneTrainer
from llm_unlearn.methods.method import Compared, Method
from llm_unlearn.methods.parameter_attribution import ParameterInfluence, forget_set_gradients
from llm_unlearn.methods.ssiuu import INFLUENCES, SsiuuTrainer
from llm_unlearn.models.answers import Answers
from llm_unlearn.models.linear_maps import linear_modules

REFERENCES = ("previous", "original", "zero")


@dataclass
class PublishedSsiuuConfig(BackboneConfig):
    """Arguments of `PublishedSsiuuTrainer`."""

    regularizer_weight: float = field(default=1e-3, metadata={"help": "Weight of the attribution regularizer."})
    reference: str = field(
        default="previous",
        metadata={
            "help": "Influence that negative influence is drawn to: that of the previous step, of the original model, "
            "or zero.",
            "choices": list(REFERENCES),
        },
    )
    influence_of: str = field(
        default="probability",
        metadata={
            "help": "Influence on the probability of the whole answer, on the mean answer log-probability, or on the "
            "mean log-odds of its tokens.",
            "choices": list(INFLUENCES),
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self.refuse_sharding("the influence of its parameters needs them whole")
        for name, known in (("reference", REFERENCES), ("influence_of", INFLUENCES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(known)}")
        check_ranges(self, {"regularizer_weight": NOT_NEGATIVE})


class PublishedSsiuuTrainer(BackboneTrainer):
    """A backbone with Algorithm 1's regularizer; `args` is a `PublishedSsiuuConfig`.

    A step costs one forward and one backward over the whole forget set more.
    """

    config_class = PublishedSsiuuConfig
    method_name = "ssiuu_published"
    method_title = "Ssiuu as published"
    paper = SsiuuTrainer.paper

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        parameters = [p for module in linear_modules(self.model).values() for p in module.parameters()]
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self._influence = ParameterInfluence(trained, self.args.reference)

    def method_state(self) -> dict[str, torch.Tensor]:
        return self._influence.state()

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        self._influence.load_state(state)

    @property
    def part_weights(self) -> dict[str, float]:
        return super().part_weights | {"regularizer": self.args.regularizer_weight}

    def regularizer(self, answers: Answers) -> torch.Tensor:
        """At the parameters as they are in this optimizer step, a scalar."""
        known, args = self._influence, self.args
        if known.step != self.state.global_step:
            model, size = self.accelerator.unwrap_model(self.model), args.per_device_train_batch_size
            found = forget_set_gradients(
                model, self.forget_rows, known.parameters, self.accelerator, size, args.influence_of
            )
            known.update(self.state.global_step, found)
        return known.penalty()


METHOD = Method(
    PublishedSsiuuTrainer,
    summary="Unlearn with Ssiuu as published: scalar parameters, drawn to their influence of the step before",
    embedded_defaults={"beta": 0.5, "forget_loss_unit": "answer", "retain_weight": 60.0},
    compared={"ssiuu_published": Compared({"backbone": "npo"})},
)
