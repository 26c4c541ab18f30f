"""What `run tune` tries of a method: values of its fields, seeded draws of them, and each draw as a method's name."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from llm_unlearn.arguments.groups import DataArguments
from llm_unlearn.data.collators import ALTERNATE, FORGET
from llm_unlearn.errors import InputError
from llm_unlearn.models.embedded import defaults_of_world
from llm_unlearn.runs.compared_methods import ComparedMethod, method_of
from llm_unlearn.training.config import UnlearnConfig

Setting = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """The settings of a method: every combination of `values`, and `defaults`, which may be none of them."""

    values: Mapping[str, Sequence[Any]]
    defaults: Setting

    @property
    def settings(self) -> list[Setting]:
        """All of them, the defaults first."""
        combinations = (
            dict(zip(self.values, chosen, strict=True)) for chosen in itertools.product(*self.values.values())
        )
        return [self.defaults, *(setting for setting in combinations if setting != self.defaults)]

    def draw(self, trials: int, seed: int, name: str) -> list[Setting]:
        """The defaults and `trials` - 1 others, no two alike; all where there are no more.

        More trials begin with those of fewer, and other methods change nothing.

        Args:
            name: of the method, so that methods with the same fields draw apart.
        """
        first, *others = self.settings
        random.Random(f"{seed} {name}").shuffle(others)
        return [first, *others][:trials]


def space_of(
    name: str,
    shared: UnlearnConfig,
    data_args: DataArguments,
    full: bool,
    learning_rates: Sequence[float],
    forget_weight_factors: Sequence[float],
) -> Space:
    """The space of a compared method: its record's `search_space`, and what is searched for all methods alike.

    A field that the name fixes (`npo:beta=0.5`) is not searched, nor a forget weight with nothing to weigh against.

    Args:
        shared: the configuration of all methods.
        full: all weights are trained.
        forget_weight_factors: times the method's own forget weight: what is tried of it.
    """
    method, given = method_of(name), {change.partition("=")[0] for change in name.partition(":")[2].split(",")}
    values = method.values(shared, data_args)
    of_class = {one.name: None if one.default is MISSING else one.default for one in fields(method.method.config)}
    defaults = {**of_class, **values, **_defaults_of_its_recipe(method, data_args, full), **method.fixed}
    searched: dict[str, Sequence[Any]] = {"learning_rate": learning_rates}
    forgets = bool({FORGET, ALTERNATE} & {*method.method.trainer.roles})
    if forgets and (values["retain_loss"] != "none" or values["general_weight"]):
        searched["forget_weight"] = [factor * defaults["forget_weight"] for factor in forget_weight_factors]
    searched |= method.method.search_space
    if unknown := [field for field in searched if field not in of_class or not searched[field]]:
        raise InputError(f"methods: {name}: search_space has {unknown[0]!r}, which is no field of it, or has no values")
    searched = {field: tuple(tried) for field, tried in searched.items() if field not in given}
    first = {field: defaults[field] for field in searched}
    # A field may have no default of its own (PDU's epsilon).
    return Space(searched, {field: searched[field][0] if value is None else value for field, value in first.items()})


def named(name: str, setting: Setting) -> str:
    """The name under which benchmarks take a method with a setting: `npo:learning_rate=0.001,beta=0.5`."""
    known, _, changes = name.partition(":")
    pairs = [*filter(None, [changes]), *(f"{field}={_text(value)}" for field, value in setting.items())]
    return f"{known}:{','.join(pairs)}" if pairs else known


def _defaults_of_its_recipe(method: ComparedMethod, data_args: DataArguments, full: bool) -> Setting:
    """What `llm-unlearn run NAME` has in the embedded world; another model has the configuration's own."""
    if data_args.model_name_or_path is not None:
        return {}
    own = method.method.defaults | (method.method.full_defaults if full else {})
    return defaults_of_world(data_args.embedded_size, own, {one.name for one in fields(method.method.config)}, full)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return "null" if value is None else str(value)
