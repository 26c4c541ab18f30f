"""Ssiuu: an unlearning loss that may not hide. loss = backbone + retain + weight * mean_f sum_neurons relu(-h g)^2.

Unlearning by output losses grows neurons of *negative* influence that suppress an answer which is still stored. The
regularizer keeps that influence small, so that what remains is to take the positive influence away.

Source: Yang et al., "Erase or Hide?", arXiv 2509.22263. The default is the neuron variant: influence of neuron outputs
h with g = d(mean answer log-probability)/dh held constant, against the target 0. `variant="published"` is Algorithm 1:
scalar parameters phi with A = phi dP/dphi over the whole forget set, against their influence one step before.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from llm_unlearn.attribution import (
    capture_outputs,
    influence,
    influence_sums,
    linear_modules,
    negative_influence_penalty,
    random_signs,
    shuffled_gradients,
)
from llm_unlearn.config import SsiuuConfig
from llm_unlearn.data.collators import FORGET
from llm_unlearn.errors import InputError
from llm_unlearn.methods.backbones import BackboneTrainer
from llm_unlearn.modeling import Answers, forward_answers
from llm_unlearn.parameter_attribution import ParameterInfluence, forget_set_gradients

RATIO_STEPS = 10  # between two measurements of the gradients' ratio: each costs two more backward passes


class SsiuuTrainer(BackboneTrainer):
    """A backbone (`args.backbone`: NPO or gradient ascent) with the attribution regularizer; `args` is a `SsiuuConfig`.

    Logs `influence/negative` and `influence/positive` (sums over neurons and positions, mean over forget rows) and,
    measured every few steps, `regularizer/gradient_ratio` = |weight grad R| / |grad forget loss|: near zero the
    regularizer is inert, far above one there is little else. With `regularizer_weight="auto"` the weight follows, so
    that this ratio stays near `regularizer_ratio`; it is logged as `regularizer/weight`.

    Memory: the gradients g, as large as the captured outputs: rows x length x neurons numbers for the forget rows of a
    micro-batch. `layers` and `modules` make it smaller, and so does a smaller micro-batch with more accumulation.

    Raises:
        InputError: `layers` or `modules` that the model lacks; `variant` exact with attention kernels, sharding or
            quantized weights that have no second derivative; `variant` published with sharded parameters.
    """

    config_class = SsiuuConfig
    method_name = "ssiuu"

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self._refuse_impossible()
        self._forget_outputs: list[torch.Tensor] = []
        automatic = self.args.regularizer_weight == "auto"
        self._weight = None if automatic else float(self.args.regularizer_weight)
        self._ratio_step = None
        linear = linear_modules(self.model, self.args.layers, self.args.modules).values()
        scalars = [p for module in linear for p in module.parameters() if p.requires_grad]
        self._parameter_influence = ParameterInfluence(scalars, self.args.reference)

    def _refuse_impossible(self) -> None:
        sharded = "FSDP" if self.is_fsdp_enabled else "DeepSpeed" if self.is_deepspeed_enabled else None
        if self.args.variant != "neuron" and sharded:
            raise InputError(f"variant={self.args.variant!r} needs whole parameters, not {sharded}; use neuron")
        if self.args.variant != "exact":
            return
        kernel = getattr(self.model.config, "_attn_implementation", None)
        if kernel not in (None, "eager", "sdpa"):
            raise InputError(
                f"variant='exact' needs second derivatives, which attention {kernel!r} lacks; load the model with "
                "attn_implementation='eager' or 'sdpa', or use variant neuron"
            )
        if getattr(self.model, "is_quantized", False):
            raise InputError("variant='exact' needs second derivatives, which quantized weights lack; use neuron")

    @property
    def part_weights(self) -> dict[str, float]:
        return super().part_weights | {"regularizer": 0.0 if self._weight is None else self._weight}

    def compute_answers(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> Answers:
        # Forget and retain rows run apart inside the one wrapped forward: the inner backward crosses forget rows only.
        unwrapped = self.accelerator.unwrap_model(model)
        if self.args.variant == "published":
            return forward_answers(model, inputs, unwrapped)
        twice = self.args.variant == "exact"  # of the kernels of SDPA, this one alone has second derivatives
        kernel = sdpa_kernel(SDPBackend.MATH) if twice else contextlib.nullcontext()
        with kernel, capture_outputs(unwrapped, self.args.layers, self.args.modules) as passes:
            answers = forward_answers(model, inputs, unwrapped, split_roles=True)
        self._forget_outputs = passes[0] if (answers.roles == FORGET).any() else []  # forget rows run first
        return answers

    def regularizer(self, answers: Answers) -> torch.Tensor | None:
        if self.args.variant == "published":
            return self._published_penalty()
        forget, outputs = answers.forget, self._forget_outputs
        self._forget_outputs = []  # the graph, and with it the memory, belongs to this step alone
        exact = self.args.variant == "exact"
        pairs = influence(forget, outputs, self.args.influence_of, second_derivative=exact) if outputs else []
        positive, negative = influence_sums(pairs) if pairs else (forget.lengths, forget.lengths)
        self.add_to_log("influence/positive", positive.sum() / self.forget_rows_in_step)
        self.add_to_log("influence/negative", negative.sum() / self.forget_rows_in_step)
        if not pairs:
            return forget.logps  # no forget row here: an empty sum
        match self.args.attribution:
            case "shuffled":
                pairs = shuffled_gradients(pairs, self.args.seed)
            case "random":
                pairs = random_signs(pairs, self.args.seed)
            case "positive":
                pairs = [(h, -g) for h, g in pairs]
        return negative_influence_penalty(pairs, self.args.token_aggregation)

    def _published_penalty(self) -> torch.Tensor:
        """Algorithm 1's regularizer at the parameters as they are in this optimizer step, a scalar."""
        known, args = self._parameter_influence, self.args
        if known.step != self.state.global_step:
            model = self.accelerator.unwrap_model(self.model)
            size = args.per_device_train_batch_size
            known.update(
                self.state.global_step,
                forget_set_gradients(
                    model, self.forget_rows, known.parameters, self.accelerator, size, args.influence_of
                ),
            )
        return known.penalty()

    # ---- how strong the regularizer is -----------------------------------------------------------------------------

    def observe_parts(self, parts: dict[str, torch.Tensor]) -> None:
        step = self.state.global_step
        automatic = self.args.regularizer_weight == "auto"
        if step == self._ratio_step or (step % RATIO_STEPS and not automatic):
            return
        self._ratio_step = step  # the first micro-batch of a step stands for all
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        squares = []
        for part in (parts["regularizer"], self.args.forget_weight * parts["forget"]):
            gradients = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
            squares.append(torch.stack([g.float().norm() for g in gradients if g is not None]).norm() ** 2)
        regularizer, forget = self.accelerator.reduce(torch.stack(squares), "sum").sqrt().clamp(min=1e-12).tolist()
        if automatic and regularizer > 1e-12:
            wanted = self.args.regularizer_ratio * forget / regularizer
            self._weight = wanted if self._weight is None else (self._weight * wanted) ** 0.5
        weight = self.part_weights["regularizer"]
        for name, value in (("gradient_ratio", weight * regularizer / forget), ("weight", weight)):
            share = torch.tensor(value / self.accelerator.num_processes, device=self.args.device)
            self.add_to_log(f"regularizer/{name}", share)
