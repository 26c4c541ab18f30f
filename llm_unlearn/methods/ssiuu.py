"""Ssiuu: an unlearning loss that may not hide. loss = backbone + retain + weight * mean_f sum_neurons relu(-h g)^2.

Unlearning by output losses grows neurons of *negative* influence that suppress an answer which is still stored. The
regularizer keeps that influence small, so that what remains is to take the positive influence away.

Source: Yang et al., "Erase or Hide?", arXiv 2509.22263. This is the neuron variant: influence of neuron outputs h with
g = d(mean answer log-probability)/dh held constant, against the target 0; the publication regularizes scalar parameters
against the previous step.
"""

import torch
from torch import nn

from llm_unlearn.attribution import (
    capture_outputs,
    influence,
    influence_sums,
    negative_influence_penalty,
    shuffled_gradients,
)
from llm_unlearn.config import SsiuuConfig
from llm_unlearn.data.collators import FORGET
from llm_unlearn.losses import gradient_ascent_loss, npo_loss
from llm_unlearn.modeling import Answers, forward_answers
from llm_unlearn.trainer import UnlearnTrainer


class SsiuuTrainer(UnlearnTrainer):
    """A backbone (`args.backbone`: NPO or gradient ascent) with the attribution regularizer; `args` is a `SsiuuConfig`.

    Logs `influence/negative` and `influence/positive` (sums over neurons and positions, mean over forget rows) and, for
    the first step of each log line, `regularizer/gradient_ratio` = |weight grad R| / |grad forget loss|: near zero the
    regularizer is inert, far above one there is little else.
    """

    config_class = SsiuuConfig
    method_name = "ssiuu"

    @property
    def needs_reference_logps(self) -> bool:
        return self.args.backbone == "npo"

    @property
    def part_weights(self) -> dict[str, float]:
        return super().part_weights | {"regularizer": self.args.regularizer_weight}

    def compute_answers(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> Answers:
        # Forget and retain rows run apart inside the one wrapped forward: the inner backward crosses forget rows only.
        unwrapped = self.accelerator.unwrap_model(model)
        with capture_outputs(unwrapped) as passes:
            answers = forward_answers(model, inputs, unwrapped, split_roles=True)
        self._forget_outputs = passes[0] if (answers.roles == FORGET).any() else []  # forget rows run first
        return answers

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        forget = answers.forget
        if self.args.backbone == "gradient_ascent":
            return gradient_ascent_loss(forget.token_logps, reduction="none")
        return npo_loss(forget.logps, forget.reference_logps, self.args.beta, reduction="none")

    def regularizer(self, answers: Answers) -> torch.Tensor | None:
        forget, outputs = answers.forget, self._forget_outputs
        self._forget_outputs = []  # the graph, and with it the memory, belongs to this step alone
        pairs = influence(forget, outputs) if outputs else []
        positive, negative = influence_sums(pairs) if pairs else (forget.lengths, forget.lengths)
        self.add_to_log("influence/positive", positive.sum() / self.forget_rows_in_step)
        self.add_to_log("influence/negative", negative.sum() / self.forget_rows_in_step)
        if not pairs:
            return forget.logps  # no forget row here: an empty sum
        if self.args.attribution == "shuffled":
            pairs = shuffled_gradients(pairs, self.args.seed)
        elif self.args.attribution == "positive":
            pairs = [(h, -g) for h, g in pairs]
        return negative_influence_penalty(pairs)

    def observe_parts(self, parts: dict[str, torch.Tensor]) -> None:
        if "regularizer/gradient_ratio" in self._sums:  # two extra backward passes: once per log line is enough
            return
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        norms = {}
        for name in ("regularizer", "forget"):
            part = self.part_weights[name] * parts[name]
            gradients = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
            norms[name] = torch.stack([g.float().norm() for g in gradients if g is not None]).norm()
        ratio = norms["regularizer"] / norms["forget"].clamp(min=1e-12)
        self.add_to_log("regularizer/gradient_ratio", ratio / self.accelerator.num_processes)
