"""Methods that teach another answer in place of the forgotten one: a refusal, or a column of the forget rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset

from llm_unlearn.data.alternates import other_answers
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass
class AlternateConfig(UnlearnConfig):
    """Arguments of methods that teach other answers."""

    alternate_column: str | None = field(
        default=None,
        metadata={"help": "Column of the forget rows with another answer to each; default: refusals (I don't know)."},
    )


class AlternateTrainer(UnlearnTrainer):
    """The base of methods that teach other answers; `args` is an `AlternateConfig`."""

    config_class = AlternateConfig
    needs = frozenset({"alternates"})

    @staticmethod
    def alternates(forget_dataset: Dataset, args: AlternateConfig) -> list[str]:
        return other_answers(forget_dataset, args.alternate_column, args.seed)
