"""Methods that teach another answer in place of the forgotten one: a refusal, a guess, or the user's own words."""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset

from llm_unlearn.data.alternates import GUESS, SAMPLED, other_answers
from llm_unlearn.data.queries import with_column
from llm_unlearn.methods.sampled_answers import with_sampled_answers
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
        if args.replace_with == SAMPLED and args.alternate_column is None and forget_dataset is not None:
            model, forget_dataset = with_sampled_answers(model, args, forget_dataset, keywords)
        if args.replace_with == GUESS and args.alternate_column is None and forget_dataset is not None:
            texts = other_answers(forget_dataset, None, args.seed, GUESS, keywords.get("retain_dataset"))
            forget_dataset = with_column(forget_dataset, GUESS, texts)
        super().__init__(model, args, forget_dataset, **keywords)

    @staticmethod
    def alternates(forget_dataset: Dataset, args: AlternateConfig) -> list[str]:
        made = args.replace_with in (GUESS, SAMPLED) and args.replace_with in forget_dataset.column_names
        column = args.alternate_column or (args.replace_with if made else None)
        return other_answers(forget_dataset, column, args.seed, args.replace_with)
