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
from transformers.trainer_utils import IntervalStrategy

from llm_unlearn.attribution import (
    KnownGradient,
    Pair,
    capture_inputs,
    capture_outputs,
    gradient_pairs,
    influence,
    influence_sums,
    linear_modules,
    negative_influence_penalty,
    opposite,
    random_signs,
    shuffled_gradients,
    without_attribution,
)
from llm_unlearn.config import SsiuuConfig
from llm_unlearn.data.collators import FORGET
from llm_unlearn.errors import InputError
from llm_unlearn.methods.backbones import BackboneTrainer
from llm_unlearn.modeling import Answers, forward_answers
from llm_unlearn.parameter_attribution import ParameterInfluence, forget_set_gradients

# Steps between two measurements of the gradients' ratio, each of which costs two more backward passes.
RATIO_STEPS = 50
AUTOMATIC_STEPS = 16  # where the weight follows it; before, at steps 0, 1, 2, 4 and 8


class SsiuuTrainer(BackboneTrainer):
    """A backbone (`args.backbone`: NPO or gradient ascent) with the attribution regularizer; `args` is a `SsiuuConfig`.

    Logs `influence/negative` and `influence/positive` (sums over neurons and positions, mean over forget rows; of the
    last step of a log line) and, every 50 steps from the first, `regularizer/gradient_ratio` = |weight grad R| /
    |grad forget loss| over the weights of the linear maps: near zero the regularizer is inert, far above one there is
    little else. With `regularizer_weight="auto"` the weight follows, so that this ratio stays near `regularizer_ratio`
    (measured at steps 0, 1, 2, 4, 8 and every 16th, on the first micro-batch); it is logged as `regularizer/weight`.

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
        self._pairs: list[Pair] = []
        self._linear = linear_modules(self.model, self.args.layers, self.args.modules)
        linear_parameters = (p for module in self._linear.values() for p in module.parameters())
        self._linear_parameters = [parameter for parameter in linear_parameters if parameter.requires_grad]
        self._parameter_influence = ParameterInfluence(self._linear_parameters, self.args.reference)
        self.load_method_state({})

    def method_state(self) -> dict[str, torch.Tensor]:
        state = self._parameter_influence.state() if self.args.variant == "published" else {}
        if self.args.regularizer_weight == "auto" and self._weight is not None:
            state["regularizer_weight"] = torch.tensor(self._weight, dtype=torch.float64)
        return state

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        state = dict(state)
        if self.args.regularizer_weight == "auto":
            weight = state.pop("regularizer_weight", None)
            self._weight = None if weight is None else weight.item()
        else:
            self._weight = float(self.args.regularizer_weight)
        self._ratio_step = None
        self._parameter_influence.load_state(state)

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
        head = unwrapped.get_output_embeddings()
        with kernel, capture_outputs(self._linear) as passes, capture_inputs(head) as head_inputs:
            answers = forward_answers(model, inputs, unwrapped, split_roles=True)
        self._pairs = []
        if (answers.roles == FORGET).any():  # then they ran first
            self._attribute(answers, passes[0], head_inputs[-1], head)
        return answers

    def _attribute(self, answers: Answers, outputs: list[torch.Tensor], hidden: torch.Tensor, head: nn.Module) -> None:
        """The pairs (h, g) of the forget rows; `hidden` (tokens, width) is what all logits were made of."""
        influence_of, exact = self.args.influence_of, self.args.variant == "exact"
        forget = answers.with_role(FORGET)
        frozen_head = not any(parameter.requires_grad for parameter in head.parameters())
        if exact or influence_of != "log_probability" or not frozen_head:
            self._pairs = influence(forget, outputs, influence_of, second_derivative=exact)
            return
        # One backward through a frozen output embedding is enough for both losses and the attribution: the
        # log-probability of a token depends on its own hidden state alone, so that every token's gradient can be read
        # off that of a weighted sum.
        weights = torch.where(answers.roles == FORGET, 1 / answers.lengths, 1.0)[answers.token_rows]
        *self._pairs, (_, gradient) = gradient_pairs((weights * answers.token_logps).sum(), [*outputs, hidden])
        token_logps = KnownGradient.apply(hidden, answers.token_logps.detach(), gradient / weights[:, None])
        answers.__dict__["token_logps"] = token_logps

    def regularizer(self, answers: Answers) -> torch.Tensor | None:
        if self.args.variant == "published":
            return self._published_penalty()
        forget, pairs = answers.forget, self._pairs
        self._pairs = []  # the graph, and with it the memory, belongs to this step alone
        if self._ends_log_line():
            positive, negative = influence_sums(pairs) if pairs else (forget.logps, forget.logps)
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
                pairs = opposite(pairs)
            case "both":
                pairs = pairs + opposite(pairs)
            case "activity":
                pairs = without_attribution(pairs)
                pairs = pairs + opposite(pairs)
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
        step, automatic = self.state.global_step, self.args.regularizer_weight == "auto"
        first_steps = automatic and step < AUTOMATIC_STEPS and step & (step - 1) == 0  # powers of two, and zero
        due = first_steps or step % (AUTOMATIC_STEPS if automatic else RATIO_STEPS) == 0
        if step == self._ratio_step or not due:
            return
        self._ratio_step = step  # the first micro-batch of a step stands for all
        squares = [self._squared_gradient_norm(part) for part in (parts["regularizer"], parts["forget"])]
        regularizer, forget = self.accelerator.reduce(torch.stack(squares), "sum").sqrt().tolist()
        forget = max(forget * self.args.forget_weight, 1e-12)
        if automatic and regularizer > 1e-12:
            wanted = self.args.regularizer_ratio * forget / regularizer
            self._weight = wanted if self._weight is None else (self._weight * wanted) ** 0.5
        weight = self.part_weights["regularizer"]
        for name, value in (("gradient_ratio", weight * regularizer / forget), ("weight", weight)):
            share = torch.tensor(value / self.accelerator.num_processes, device=self.args.device)
            self.add_to_log(f"regularizer/{name}", share)

    def _squared_gradient_norm(self, part: torch.Tensor) -> torch.Tensor:
        """|gradient|^2 of a part of the loss over the trainable weights of the linear maps, one weight at a time."""
        squares = [torch.zeros((), device=self.args.device)]

        def measure(gradient: torch.Tensor) -> torch.Tensor:
            squares.append(torch.linalg.vector_norm(gradient, dtype=torch.float32).square())
            return gradient.new_zeros(()).expand_as(gradient)  # so that no two gradients are in memory at once

        hooks = [parameter.register_hook(measure) for parameter in self._linear_parameters]
        try:
            torch.autograd.grad(part, self._linear_parameters, retain_graph=True, allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(squares).sum()

    def _ends_log_line(self) -> bool:
        """Whether the sums of influence are wanted: they are logged of the last step of a log line."""
        if self.args.logging_strategy != IntervalStrategy.STEPS:
            return True
        step = self.state.global_step
        return (step + 1) % max(1, self.state.logging_steps) == 0 or (step == 0 and self.args.logging_first_step)
