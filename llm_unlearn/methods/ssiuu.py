"""Ssiuu: an unlearning loss that may not hide. loss = backbone + retain + weight * mean_f sum_neurons relu(-h g)^2.

Unlearning by output losses grows neurons of *negative* influence that suppress an answer which is still stored. The
regularizer keeps that influence small, so that what remains is to take the positive influence away.

Source: Yang et al., "Erase or Hide?", arXiv 2509.22263. The default is the neuron variant: influence of neuron outputs
h with g = d(mean answer log-probability)/dh held constant, against the target 0. Algorithm 1 itself is the method
`ssiuu_published`.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.trainer_utils import IntervalStrategy

from llm_unlearn.arguments.ranges import POSITIVE, check_ranges
from llm_unlearn.data.collators import FORGET
from llm_unlearn.errors import InputError
from llm_unlearn.methods.attribution import (
    KnownGradient,
    Pair,
    capture_inputs,
    capture_outputs,
    chosen_pairs,
    gradient_pairs,
    influence,
    influence_sums,
    negative_influence_penalty,
    squared_pulls,
)
from llm_unlearn.methods.backbones import BackboneConfig, BackboneTrainer
from llm_unlearn.methods.method import Compared, Method
from llm_unlearn.models.answers import Answers, forward_answers
from llm_unlearn.models.linear_maps import linear_modules
from llm_unlearn.training.paper import Paper

VARIANTS = ("neuron", "exact")
INFLUENCES = ("log_probability", "log_odds", "probability")
TOKEN_AGGREGATIONS = ("all", "minimum", "sum")
ATTRIBUTIONS = ("negative", "positive", "both", "shuffled", "random", "activity")


@dataclass
class SsiuuConfig(BackboneConfig):
    """Arguments of `SsiuuTrainer`: a backbone forget loss plus the attribution regularizer."""

    variant: str = field(
        default="neuron",
        metadata={
            "help": "The influence of neuron outputs, with a constant gradient (neuron) or with second derivatives "
            "(exact: slow, the yardstick of neuron).",
            "choices": list(VARIANTS),
        },
    )
    regularizer_weight: float | str = field(
        default="auto",
        metadata={
            "help": "Weight of the attribution regularizer, or auto: held where its gradient has regularizer_ratio "
            "times the norm of the forget loss's. The right weight depends on model, answers' length and backbone: "
            "watch the logged regularizer/gradient_ratio.",
        },
    )
    regularizer_ratio: float = field(
        default=2.0,
        metadata={
            "help": "With regularizer_weight auto: |weight grad R| / |grad forget loss| at the neurons' outputs."
        },
    )
    influence_of: str = field(
        default="log_probability",
        metadata={
            "help": "Influence on the mean answer log-probability (log_probability), on the mean log-odds of its "
            "tokens (log_odds) or on the probability of the whole answer (probability).",
            "choices": list(INFLUENCES),
        },
    )
    token_aggregation: str = field(
        default="all",
        metadata={
            "help": "A neuron's influence at all positions of a row, the minimum over them, or their sum.",
            "choices": list(TOKEN_AGGREGATIONS),
        },
    )
    layers: list[int] | None = field(
        default=None, metadata={"help": "Blocks whose neurons are regularized (-1: the last); default: all."}
    )
    modules: list[str] | None = field(
        default=None,
        metadata={"help": "Last names of the linear maps whose neurons are regularized, as q_proj; default: all."},
    )
    attribution: str = field(
        default="negative",
        metadata={
            "help": "Influence that is regularized: negative, or, as controls of what the method owes to it, positive, "
            "both, shuffled (each neuron's with the gradient of another one), random (as many as are negative) or "
            "activity (neurons are regularized for being active, whatever their influence).",
            "choices": list(ATTRIBUTIONS),
        },
    )

    def __post_init__(self):
        super().__post_init__()
        # Tried with PyTorch 2.13 and DeepSpeed 0.19: both take the inner backward for the step's own, and crash.
        self.refuse_sharding("Ssiuu has a backward inside its forward, which sharding does not survive")
        choices = {
            "variant": VARIANTS,
            "influence_of": INFLUENCES,
            "token_aggregation": TOKEN_AGGREGATIONS,
            "attribution": ATTRIBUTIONS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(known)}")
        if self.variant == "exact" and self.activation_checkpointing:
            raise ValueError("activation_checkpointing recomputes without second derivatives: not with variant exact")
        weight = self.regularizer_weight
        if weight != "auto" and (isinstance(weight, str) or not 0 <= weight < math.inf):
            raise ValueError(f"regularizer_weight={weight!r} must be auto, or a number of 0 or more")
        if weight == "auto" and self.influence_of != "log_probability":
            raise ValueError(
                "regularizer_weight='auto' needs influence on the log-probability, not "
                f"influence_of={self.influence_of!r}; give a number"
            )
        if self.logits_chunk_size is not None:
            raise ValueError(f"logits_chunk_size={self.logits_chunk_size} keeps no logits to attribute; leave it out")
        if self.use_liger_kernel:  # read in liger-kernel 0.8.5: ops/swiglu.py writes gradients over what was saved
            raise ValueError(
                "use_liger_kernel=True: its kernels overwrite what a second backward needs, and Ssiuu has one: its "
                "gradients would be silently wrong. Leave it out"
            )
        check_ranges(self, {"regularizer_ratio": POSITIVE})
        for name in ("layers", "modules"):
            if getattr(self, name) is not None and not getattr(self, name):
                raise ValueError(f"{name}=[] would regularize nothing; leave it out for all")


class SsiuuTrainer(BackboneTrainer):
    """A backbone (`args.backbone`: NPO or gradient ascent) with the attribution regularizer; `args` is a `SsiuuConfig`.

    Logs, of the last step of a log line, `influence/negative` and `influence/positive` (sums over neurons and
    positions, mean over forget rows) and `regularizer/gradient_ratio` = |weight dR/dh| / |d forget loss/dh| over all
    neuron outputs h: near zero the regularizer is inert, far above one there is little else. With
    `regularizer_weight="auto"` the weight (logged as `regularizer/weight`; 0 in the first step) follows, so that the
    ratio stays near `regularizer_ratio`. This costs no pass through the model, and is the same however a batch is
    divided among micro-batches and processes.

    Memory: the gradients g, as large as the captured outputs: rows x length x neurons numbers for the forget rows of a
    micro-batch. `layers` and `modules` make it smaller, and so does a smaller micro-batch with more accumulation.

    Raises:
        InputError: `layers` or `modules` that the model lacks; `variant` exact with attention kernels or quantized
            weights that have no second derivative.
    """

    config_class = SsiuuConfig
    method_name = "ssiuu"
    method_title = "Ssiuu"
    paper = Paper("2509.22263", "Yang and others", 2025, "Erase or Hide?")

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self._refuse_impossible()
        self._pairs: list[Pair] = []
        self._linear = linear_modules(self.model, self.args.layers, self.args.modules)
        self.load_method_state({})

    def method_state(self) -> dict[str, torch.Tensor]:
        state = {}
        if self.args.regularizer_weight == "auto" and self._weight is not None:
            state["regularizer_weight"] = torch.tensor(self._weight, dtype=torch.float64)
        return state

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        if self.args.regularizer_weight == "auto":
            weight = state.get("regularizer_weight")
            self._weight = None if weight is None else weight.item()
        else:
            self._weight = float(self.args.regularizer_weight)
        self._to_measure: tuple[list[Pair], list[Pair], Answers] | None = None
        self._pulls: torch.Tensor | None = None  # what has been measured in this step

    def _refuse_impossible(self) -> None:
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
        twice = self.args.variant == "exact"  # of the kernels of SDPA, this one alone has second derivatives
        kernel = sdpa_kernel(SDPBackend.MATH) if twice else contextlib.nullcontext()
        head = unwrapped.get_output_embeddings()
        with kernel, capture_outputs(self._linear) as passes, capture_inputs(head) as head_inputs:
            answers = forward_answers(model, inputs, unwrapped, split_roles=True, split_long=True)
        self._pairs = []
        if (answers.roles == FORGET).any():  # then they ran first
            self._attribute(answers, passes[0], head_inputs[-1], head)
        return answers

    def _attribute(self, answers: Answers, outputs: list[torch.Tensor], hidden: torch.Tensor, head: nn.Module) -> None:
        """The pairs (h, g) of the forget rows; `hidden` (tokens, width) is what all logits were made of."""
        influence_of, exact = self.args.influence_of, self.args.variant == "exact"
        forget = answers.with_role(FORGET)
        frozen_head = not any(parameter.requires_grad for parameter in head.parameters())
        if exact or influence_of != "log_probability" or not frozen_head or answers.token_weights is not None:
            self._pairs = influence(forget, outputs, influence_of, second_derivative=exact)
            return
        # One backward through a frozen output embedding is enough for both losses and the attribution: the
        # log-probability of a token depends on its own hidden state alone, so that every token's gradient can be read
        # off that of a weighted sum.
        weights = torch.where(answers.roles == FORGET, 1 / answers.lengths, 1.0)[answers.token_rows]
        *self._pairs, (_, gradient) = gradient_pairs((weights * answers.token_logps).sum(), [*outputs, hidden])
        answers.token_logps = KnownGradient.apply(hidden, answers.token_logps.detach(), gradient / weights[:, None])

    def regularizer(self, answers: Answers) -> torch.Tensor | None:
        forget, pairs = answers.forget, self._pairs
        self._pairs = []  # the graph, and with it the memory, belongs to this step alone
        ends_log_line = self._ends_log_line()
        if ends_log_line:
            positive, negative = influence_sums(pairs) if pairs else (forget.logps, forget.logps)
            self.add_to_log("influence/positive", positive.sum() / self.forget_rows_in_step)
            self.add_to_log("influence/negative", negative.sum() / self.forget_rows_in_step)
        chosen = chosen_pairs(pairs, self.args.attribution, self.args.seed)
        if self.args.influence_of == "log_probability" and (ends_log_line or self.args.regularizer_weight == "auto"):
            self._to_measure = (pairs, chosen, forget)
        return (
            negative_influence_penalty(chosen, self.args.token_aggregation) if pairs else forget.logps
        )  # an empty sum

    # ---- how strong the regularizer is -----------------------------------------------------------------------------

    def observe_parts(self, parts: dict[str, torch.Tensor]) -> None:
        if self._to_measure is None:
            return
        pairs, chosen, forget = self._to_measure
        self._to_measure = None
        squares = squared_pulls(
            pairs, chosen, self.args.token_aggregation, forget, parts["forget"], self.forget_rows_in_step
        )
        self._pulls = squares if self._pulls is None else self._pulls + squares

    def before_update(self) -> None:
        """Log how strong the regularizer was in this step, and, if it is automatic, set its weight for the next."""
        if self._pulls is None:
            return
        regularizer, forget = self.accelerator.reduce(self._pulls, "sum").sqrt().tolist()
        self._pulls = None
        forget = max(forget * self.args.forget_weight, 1e-12)
        weight = self.part_weights["regularizer"]
        for name, value in (("gradient_ratio", weight * regularizer / forget), ("weight", weight)):
            share = torch.tensor(value / self.accelerator.num_processes, device=self.args.device)
            self.add_to_log(f"regularizer/{name}", share)
        if self.args.regularizer_weight == "auto" and regularizer > 1e-12:
            wanted = self.args.regularizer_ratio * forget / regularizer
            self._weight = wanted if self._weight is None else (self._weight * wanted) ** 0.5  # a step is noisy

    def _ends_log_line(self) -> bool:
        """Whether the sums of influence are wanted: they are logged of the last step of a log line."""
        if self.args.logging_strategy != IntervalStrategy.STEPS:
            return True
        step = self.state.global_step
        return (step + 1) % max(1, self.state.logging_steps) == 0 or (step == 0 and self.args.logging_first_step)


METHOD = Method(
    SsiuuTrainer,
    summary="Unlearn with Ssiuu: an unlearning loss with a penalty on neurons that speak against the answers, meant to "
    "keep it from merely hiding them",
    embedded_defaults={"beta": 0.5, "forget_loss_unit": "answer", "regularizer_weight": 3.0, "retain_weight": 60.0},
    compared={
        "ssiuu": Compared({"backbone": "npo"}),
        "ssiuu_grad_diff": Compared({"backbone": "gradient_ascent"}),
        "ssiuu_shuffled": Compared({"backbone": "npo", "attribution": "shuffled"}, steps_of="ssiuu"),
        "ssiuu_positive": Compared({"backbone": "npo", "attribution": "positive"}, steps_of="ssiuu"),
        "ssiuu_random": Compared({"backbone": "npo", "attribution": "random"}, steps_of="ssiuu"),
    },
    extra_backwards=1,
    search_space={"regularizer_weight": (1.0, 3.0, 10.0)},
)
