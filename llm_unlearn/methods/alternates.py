"""Methods that teach another answer in place of the forgotten one: a refusal, a guess, or the user's own words."""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset

from llm_unlearn.data.alternates import SAMPLED, other_answers
from llm_unlearn.methods.sampled_answers import with_sampled_answers
from llm_unlearn.training.checks import check_arguments
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.trainer import UnlearnTrainer


@dataclass
class AlternateConfig(UnlearnConfig):
    """Arguments of methods that teach other answers."""

    replace_with: str = field(
        default="refusal",
        metadata={
            "help": "What the model shall say instead: refusal (I don't know), guess (the answer of another row of the "
            "same kind), sampled (what the model itself makes up), or a file with one text in each line."
        },
    )
    alternate_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the forget rows with another answer to each, or several of which one is drawn; goes "
            "before replace_with."
        },
    )


class AlternateTrainer(UnlearnTrainer):
    """The base of methods that teach other answers; `args` is an `AlternateConfig`."""

    config_class = AlternateConfig
    needs = frozenset({"alternates"})

    def __init__(self, model, args=None, forget_dataset=None, **keywords):
        args = args or self.config_class()
        check_arguments(self, args)
        if args.replace_with == SAMPLED and args.alternate_column is None:
            model, forget_dataset = with_sampled_answers(model, args, forget_dataset, keywords)
        super().__init__(model, args, forget_dataset, **keywords)

    def alternates(self, forget_dataset: Dataset, args: AlternateConfig) -> list[str]:
        sampled = SAMPLED in forget_dataset.column_names and args.replace_with == SAMPLED
        column = args.alternate_column or (SAMPLED if sampled else None)
        return other_answers(forget_dataset, column, args.seed, args.replace_with, self.retain_dataset)
