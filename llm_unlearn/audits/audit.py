"""`Audit`: all that the command needs to know of a look inside models; `Inspection`: what one is made with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.attacks.attack import groups_of
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.data import UnlearningData, encode_dataset
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.identity import facts_of

Measure = Callable[[str, PreTrainedModel], dict[str, Any]]


@dataclass(frozen=True)
class Audit:
    """One audit, a file with its record.

    Attributes:
        name: on the command line.
        summary: what it does, in a few words, written out in the record (lists read it without importing it).
        sections: under which names its findings stand in influence.json, each a mapping from models.
        start: gives a function of a model's name and the model, called with the original first and then with each other
            one, that returns what it found by section. It raises `InputError` where the data is not enough, with the
            reason; None: it is not asked for.
    """

    name: str
    summary: str
    sections: tuple[str, ...]
    start: Callable[[Inspection], Measure | None]


@dataclass
class Inspection:
    """What is looked at, the same in every model.

    Attributes:
        score: what influence is the influence on. top_shares: shares of all neurons, those that changed most.
        budget: of the reinjection after which neurons are looked at again; None: there is none.
        derangement_seeds: each gives every forget row another answer. group_by: within which column.
    """

    data: UnlearningData
    processing_class: PreTrainedTokenizerBase
    score: str = "log_odds"
    top_shares: Sequence[float] = (0.01, 0.05, 1.0)
    budget: AttackBudget | None = None
    derangement_seeds: Sequence[int] = (0, 1, 2)
    group_by: str | None = None
    max_length: int | None = 1024
    batch_size: int = 16

    @cached_property
    def rows(self) -> list[EncodedRow]:
        """The encoded forget rows."""
        return self.encoded(self.data.forget, "forget set")

    @property
    def facts(self) -> list[str | int]:
        """The fact of each forget row."""
        return facts_of(self.data.forget)

    @property
    def groups(self) -> list[str | int]:
        """The group of each forget row, over which intervals are taken."""
        return groups_of(self.data)

    def encoded(self, dataset: Dataset, name: str) -> list[EncodedRow]:
        """A data set as the model sees it."""
        return encode_dataset(dataset, self.processing_class, self.max_length, name)
