"""`Method`: all that commands, help, tables, benchmarks and model cards need to know of a way to unlearn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_unlearn.models.embedded import EMBEDDED_DEFAULTS, EMBEDDED_FULL_DEFAULTS
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass(frozen=True)
class Compared:
    """A form of a method that benchmarks compare under a name of its own.

    fixed: fields of the configuration. steps_of: for a control that takes as many steps as this one.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    steps_of: str | None = None


@dataclass(frozen=True)
class Method:
    """One way to unlearn; its name, title and paper are the trainer's.

    Attributes:
        trainer: with `config_class`, whose own fields are the method's flags.
        summary: what it does, in a line, written out in the record (lists read it without importing it).
        embedded_defaults: values of fields that suit the embedded world in place of the configuration's own defaults;
            those that all methods share are `models.embedded.EMBEDDED_DEFAULTS`.
        embedded_full_defaults: on top of those, with `--full_finetuning`.
        compared: the forms that benchmarks compare by name; by default the method as it is.
        search_space: field -> values that `llm-unlearn run tune` tries of the method's own settings, beside the
            learning rate and the retain weight, which it tries for all alike.
        extra_forwards, extra_backwards, extra_rounds: passes of a step beyond one forward and one backward of all rows,
            for the speed benchmark: forwards alone, backwards through the blocks alone, and forwards with their
            backwards, all of as many rows as are forgotten.
    """

    trainer: type[UnlearnTrainer]
    summary: str
    embedded_defaults: Mapping[str, Any] = field(default_factory=dict)
    embedded_full_defaults: Mapping[str, Any] = field(default_factory=dict)
    compared: Mapping[str, Compared] = field(default_factory=dict)
    search_space: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    extra_forwards: int = 0
    extra_backwards: int = 0
    extra_rounds: int = 0

    @property
    def name(self) -> str:
        """What the command line and results call it."""
        return self.trainer.method_name

    @property
    def config(self) -> type[UnlearnConfig]:
        """The class of its arguments."""
        return self.trainer.config_class

    @property
    def forms(self) -> Mapping[str, Compared]:
        """What benchmarks compare: name -> form."""
        return self.compared or {self.name: Compared()}

    @property
    def defaults(self) -> dict[str, Any]:
        """What the embedded world has in place of the configuration's own defaults, which suit larger models."""
        own = {"output_dir": f"outputs/{self.name}", "audits": ["probes"]}
        return own | EMBEDDED_DEFAULTS | dict(self.embedded_defaults)

    @property
    def full_defaults(self) -> dict[str, Any]:
        """On top of those, with `--full_finetuning`."""
        return EMBEDDED_FULL_DEFAULTS | dict(self.embedded_full_defaults)
