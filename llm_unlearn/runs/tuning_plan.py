"""What `run tune` is asked for, and what follows from that before any model is loaded: each method's trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llm_unlearn.arguments.attacking import GENERATION_CONFIG, AttackArguments
from llm_unlearn.arguments.groups import AdapterArguments, DataArguments
from llm_unlearn.arguments.ranges import COUNT, POSITIVE, SEED, check_each_once, check_ranges
from llm_unlearn.errors import InputError
from llm_unlearn.runs.compared_methods import compared_methods, method_of
from llm_unlearn.runs.search_space import Setting, Space, named, space_of
from llm_unlearn.training.config import UnlearnConfig


@dataclass
class TuningConfig(UnlearnConfig):
    """What all trials have in common; what is searched (learning_rate, forget_weight) is set for each trial.

    Outside the embedded worlds, the first trial of every method has `learning_rate` as given here.
    """


@dataclass
class TuningArguments:
    """Which methods are tuned, on which seeds, and what is tried of them."""

    methods: list[str] | None = field(
        default=None,
        metadata={
            "help": "Any of the methods of `run robustness` that are no control; default: all that can be trained "
            "here. A name may fix fields, which are then not searched: npo:beta=0.5."
        },
    )
    trials: int = field(default=8, metadata={"help": "Settings that are tried of each method, its defaults first."})
    tuning_seeds: list[int] = field(
        default_factory=lambda: [100],
        metadata={"help": "Every trial is trained with each of them; what they choose is reported on others."},
    )
    search_seed: int = field(default=0, metadata={"help": "Of the drawn settings, for each method apart."})
    learning_rates: list[float] = field(
        default_factory=lambda: [1e-5, 3e-5, 1e-4], metadata={"help": "Rates that are searched for every method."}
    )
    forget_weight_factors: list[float] = field(
        default_factory=lambda: [1.0, 4.0, 16.0],
        metadata={
            "help": "Times its own forget_weight, searched for every method that has a retain or general loss to weigh "
            "it against: forget losses have scales of their own, and what protects is the same for all."
        },
    )
    least_kept: float = field(
        default=0.9,
        metadata={
            "help": "What a trial must keep of its lowest ability, as a share of the weakest of original and oracles."
        },
    )
    counterfactual_group_by: str | None = field(
        default=None,
        metadata={
            "help": "Column that says which answers are of a kind (as `judge` has it); default: kind, attribute."
        },
    )
    benign_data: str = field(
        default="embedded", metadata={"help": "Instructions that judge what is kept (as `judge` has them)."}
    )
    generation_config: str = field(default="own", metadata=GENERATION_CONFIG)

    def __post_init__(self):
        check_ranges(self, {"trials": COUNT, "tuning_seeds": SEED, "search_seed": SEED, "least_kept": (0, 1)})
        check_ranges(self, {"learning_rates": POSITIVE, "forget_weight_factors": POSITIVE})
        check_each_once(self, ["tuning_seeds", "learning_rates", "forget_weight_factors"])
        for name in self.methods or []:
            if needed := method_of(name).steps_of:
                raise ValueError(
                    f"methods: {name} is a control, whose rate follows the steps of {needed}; leave it out"
                )
        if self.methods is not None:
            check_each_once(self, ["methods"])

    def attack_arguments(self) -> AttackArguments:
        """For an examination that attacks nothing: benign tuning only brings the instructions, which are judged."""
        shared = {name: getattr(self, name) for name in ("counterfactual_group_by", "benign_data", "generation_config")}
        return AttackArguments(attacks=["benign_relearning"], counterfactual=False, **shared)


@dataclass
class Plan:
    """What a search tries; no model is needed to know it.

    Attributes:
        config: the arguments that all trials share.
        spaces: of every method.
        drawn: method -> name of a trial -> its setting, of those that can be trained here.
        left_out: method -> why it cannot, of those that nobody named.
    """

    arguments: TuningArguments
    config: TuningConfig
    adapter_args: AdapterArguments
    data_args: DataArguments
    spaces: dict[str, Space] = field(init=False)
    drawn: dict[str, dict[str, Setting]] = field(init=False)
    left_out: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self):
        self._check_shared()
        arguments, full = self.arguments, self.adapter_args.full_finetuning
        names = arguments.methods or [name for name, one in compared_methods().items() if one.steps_of is None]
        self.spaces = {
            name: space_of(
                name, self.config, self.data_args, full, arguments.learning_rates, arguments.forget_weight_factors
            )
            for name in names
        }
        self.drawn = {}
        for name, space in self.spaces.items():
            settings = space.draw(arguments.trials, arguments.search_seed, name)
            self.drawn[name] = {named(name, setting): setting for setting in settings}
        for name in names:
            self.keep_if_possible(name, self.configured)
        for trial in self.trials:  # a field that a method refuses is an error before hours of work
            try:
                self.configured(trial)
            except ValueError as error:
                raise InputError(f"methods: {trial}: {error}") from error

    def _check_shared(self) -> None:
        if not self.config.stopping_thresholds:
            raise InputError(
                "trials stop at the same forget score: give --stop_at_forget_probability (about what an oracle scores) "
                "and --stop_at_forget_exact_match"
            )
        if (bits := self.adapter_args.bits) is not None:
            raise InputError(f"load_in_{bits}bit: methods are compared on whole base weights; leave it out")
        if self.config.push_to_hub:
            raise InputError("push_to_hub: trials keep no model; leave it out")
        if self.config.save_strategy != "no":
            raise InputError("save_strategy: trials keep no checkpoints; leave it out")

    @property
    def trials(self) -> list[str]:
        """The names of all trials, method by method."""
        return [trial for trials in self.drawn.values() for trial in trials]

    def configured(self, trial: str, **set_here: Any) -> UnlearnConfig:
        """The configuration of a trial, as `ComparedMethod.configured` has it."""
        return method_of(trial).configured(self.config, self.data_args, **set_here)

    def keep_if_possible(self, name: str, attempt: Callable[[str], object]) -> None:
        """Leave a method out whose first trial is refused by `attempt`.

        Raises:
            InputError: somebody named the method, or no other is left.
        """
        try:
            attempt(next(iter(self.drawn[name])))
        except (ValueError, InputError) as error:
            if self.arguments.methods is not None:
                raise InputError(f"methods: {name}: {error}") from error
            del self.drawn[name]
            self.left_out[name] = str(error)
        if not self.drawn:
            raise InputError("methods: none can be trained here; name one with --methods to see why")
