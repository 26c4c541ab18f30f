"""The methods that benchmarks compare, by name; a name may say more: `ssiuu:regularizer_weight=30,retain_weight=60`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

from llm_unlearn.arguments.groups import AdapterArguments, DataArguments
from llm_unlearn.arguments.parsing import convert_fields
from llm_unlearn.examining.examination import Examination
from llm_unlearn.methods import load_methods
from llm_unlearn.methods.method import Method
from llm_unlearn.models.embedded import defaults_of_world
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass(frozen=True)
class ComparedMethod:
    """A method with fixed fields of its configuration; `steps_of`: a control that takes as many steps as this one."""

    method: Method
    fixed: Mapping[str, Any] = field(default_factory=dict)
    steps_of: str | None = None

    def values(self, shared: UnlearnConfig, data_args: DataArguments) -> dict[str, Any]:
        """Fields of the configuration: what all methods share, in the embedded world the method's own, what is fixed.

        What a field has that is none of these is its class's default.
        """
        common = {one.name: getattr(shared, one.name) for one in fields(UnlearnConfig) if one.init}
        own = {one.name for one in fields(self.method.config)} - {one.name for one in fields(UnlearnConfig)}
        suited = {}  # of the fields that only this method has; those of all are set for all alike
        if data_args.model_name_or_path is None:
            suited = defaults_of_world(data_args.embedded_size, self.method.embedded_defaults, own)
        return common | {name: suited[name] for name in own & suited.keys()} | dict(self.fixed)

    def configured(self, shared: UnlearnConfig, data_args: DataArguments, **set_here: Any) -> UnlearnConfig:
        """The configuration of a run: `values`, in which a benchmark sets what is not fixed.

        Raises:
            ValueError, InputError: the method refuses a field.
        """
        return self.method.config(**{**self.values(shared, data_args), **set_here, **self.fixed})


@cache
def compared_methods() -> dict[str, ComparedMethod]:
    """Every form of every method by name, controls last."""
    found = {
        name: ComparedMethod(method, form.fixed, form.steps_of)
        for method in load_methods().values()
        for name, form in method.forms.items()
    }
    return dict(sorted(found.items(), key=lambda item: item[1].steps_of is not None))


SET_BY_THE_BENCHMARK = {"seed": "--seeds", "output_dir": "--output_dir"}


def method_of(name: str) -> ComparedMethod:
    """The method of a name in `compared_methods`, alone or with fields of its configuration: `name:field=value,...`.

    Raises:
        ValueError: an unknown name or field, a value of the wrong type, or a field that the benchmark itself sets.
    """
    known, _, changes = name.partition(":")
    methods = compared_methods()
    if known not in methods:
        raise ValueError(f"methods: {known!r} is unknown; choose from {', '.join(methods)}")
    method = methods[known]
    if not changes:
        return method
    pairs = [change.partition("=") for change in changes.split(",")]
    if wrong := [field for field, sign, _ in pairs if not sign]:
        raise ValueError(f"methods: {name!r} has {wrong[0]!r} where field=value is wanted")
    if taken := [field for field, _, _ in pairs if field in SET_BY_THE_BENCHMARK]:
        flag = SET_BY_THE_BENCHMARK[taken[0]]
        raise ValueError(f"methods: {taken[0]} in {name!r} is set for all methods alike; use {flag}")
    values = convert_fields(method.method.config, {field: value for field, _, value in pairs}, f"in --methods {name}")
    return replace(method, fixed={**method.fixed, **values})


def controlled(name: str, methods: Sequence[str]) -> str | None:
    """The compared method that a control is one of; None: it is no control, or that one is not among the methods.

    The one with the same fields fixed, else the plain one, else the only one that there is.
    """
    own, changes = method_of(name).steps_of, name.partition(":")[2]
    if own is None:
        return None
    forms = [method for method in methods if method.partition(":")[0] == own]
    wanted = [form for form in (f"{own}:{changes}", own) if form in forms]
    return (wanted or (forms if len(forms) == 1 else [None]))[0]


def trained_as(name: str) -> str:
    """The first method that trains alike: a control of equal steps differs from its method in nothing but the rate."""
    own = method_of(name)
    alike = (name for name, one in compared_methods().items() if (one.method, one.fixed) == (own.method, own.fixed))
    return next(alike, name)


def trainer_of(
    method: ComparedMethod,
    config: UnlearnConfig,
    adapter_args: AdapterArguments,
    examination: Examination,
    original: str,
    *,
    further: bool = False,
) -> UnlearnTrainer:
    """What trains `original`, read anew, on the rows of an examination; `further`: the adapter that it has."""
    data = examination.data
    return method.method.trainer(
        model=examination.load_model(original),
        args=config,
        forget_dataset=data.trained_forget,
        retain_dataset=data.retain,
        general_dataset=data.trained_general,
        processing_class=examination.processing_class,
        peft_config=None if further else adapter_args.peft_config(),
        near_duplicates=examination.data_args.near_duplicates,
    )
