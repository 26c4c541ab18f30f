"""The methods that benchmarks compare, by name; a name may say more: `ssiuu:regularizer_weight=30,retain_weight=60`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llm_unlearn.arguments.parsing import convert_fields
from llm_unlearn.methods import GradientAscentTrainer, NPOTrainer, SAMTrainer, SsiuuTrainer
from llm_unlearn.training.config import GradientAscentConfig, NPOConfig, SAMConfig, SsiuuConfig, UnlearnConfig
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass(frozen=True)
class Method:
    """A trainer with fixed fields of its configuration; `steps_of`: a control that takes as many steps as this one."""

    trainer: type[UnlearnTrainer]
    config: type[UnlearnConfig]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    steps_of: str | None = None


METHODS = {
    "gradient_ascent": Method(
        GradientAscentTrainer, GradientAscentConfig, {"retain_loss": "none", "general_weight": 0.0}
    ),
    "grad_diff": Method(GradientAscentTrainer, GradientAscentConfig),
    "npo": Method(NPOTrainer, NPOConfig),
    "sam": Method(SAMTrainer, SAMConfig, {"backbone": "npo"}),
    "ssiuu": Method(SsiuuTrainer, SsiuuConfig, {"backbone": "npo"}),
    "ssiuu_grad_diff": Method(SsiuuTrainer, SsiuuConfig, {"backbone": "gradient_ascent"}),
    "npo_equal_steps": Method(NPOTrainer, NPOConfig, steps_of="ssiuu"),
    "sam_equal_steps": Method(SAMTrainer, SAMConfig, {"backbone": "npo"}, "ssiuu"),
    "ssiuu_shuffled": Method(SsiuuTrainer, SsiuuConfig, {"backbone": "npo", "attribution": "shuffled"}, "ssiuu"),
    "ssiuu_positive": Method(SsiuuTrainer, SsiuuConfig, {"backbone": "npo", "attribution": "positive"}, "ssiuu"),
    "ssiuu_random": Method(SsiuuTrainer, SsiuuConfig, {"backbone": "npo", "attribution": "random"}, "ssiuu"),
}


SET_BY_THE_BENCHMARK = {"seed": "--seeds", "output_dir": "--output_dir"}


def method_of(name: str) -> Method:
    """The method of a name in `METHODS`, alone or with fields of its configuration: `name:field=value,field=value`.

    Raises:
        ValueError: an unknown name or field, a value of the wrong type, or a field that the benchmark itself sets.
    """
    known, _, changes = name.partition(":")
    if known not in METHODS:
        raise ValueError(f"methods: {known!r} is unknown; choose from {', '.join(METHODS)}")
    method = METHODS[known]
    if not changes:
        return method
    pairs = [change.partition("=") for change in changes.split(",")]
    if wrong := [field for field, sign, _ in pairs if not sign]:
        raise ValueError(f"methods: {name!r} has {wrong[0]!r} where field=value is wanted")
    if taken := [field for field, _, _ in pairs if field in SET_BY_THE_BENCHMARK]:
        flag = SET_BY_THE_BENCHMARK[taken[0]]
        raise ValueError(f"methods: {taken[0]} in {name!r} is set for all methods alike; use {flag}")
    values = convert_fields(method.config, {field: value for field, _, value in pairs}, f"in --methods {name}")
    return replace(method, fixed={**method.fixed, **values})


def controlled(name: str, methods: Sequence[str]) -> str | None:
    """The compared method that a control is one of: with the same fields fixed, if that one is among the methods."""
    own, changes = method_of(name).steps_of, name.partition(":")[2]
    alike = own and f"{own}:{changes}"
    return alike if alike in methods else own


def trained_as(name: str) -> str:
    """The first method that trains alike: a control of equal steps differs from its method in nothing but the rate."""
    own = method_of(name)
    alike = (other for other, one in METHODS.items() if (one.trainer, one.fixed) == (own.trainer, own.fixed))
    return next(alike, name)
