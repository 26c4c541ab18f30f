"""Retrain consistency: did unlearning move the hidden states to where retraining would have put them?

Taken after every block at the last token of the question: it has seen all of the question and nothing of the answer, so
whatever the model knows about the person asked for is there or will not be said, and its context is the same in every
model. The first oracle is what retraining gives; another one, from another seed, in the place of the unlearned model is
the ceiling: no unlearned model need be nearer to an oracle than oracles are to each other.

Half of the retained people are compared, as many rows as forget rows. Rows of the other half are neutral: on them the
coordinates of two models are brought to match for the aligned numbers, without a look at what is compared.

The numbers: `metrics/consistency.py`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from llm_unlearn.audits.audit import Audit, Inspection, Measure
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.data.identity import units_of
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError
from llm_unlearn.metrics.consistency import States, compare
from llm_unlearn.models.hidden_states import states_at

MOST_ROWS = 256  # of each kind; their states are held for the original and all oracles


def questions(inspection: Inspection, dataset: Dataset, name: str) -> list[list[int]]:
    """The tokens of each row before its answer.

    Raises:
        InputError: the rows are plain text.
    """
    if not split_rows(dataset, name)[0][0]:
        raise InputError(f"{name}: plain text has no question, at the end of which to compare; split it in two columns")
    starts = (
        (row, next(i for i, label in enumerate(row["labels"]) if label != IGNORED))
        for row in inspection.encoded(dataset, name)
    )
    return [row["input_ids"][:start] for row, start in starts]


def sampled(dataset: Dataset, count: int) -> Dataset:
    """So many of the rows, the same ones each time and in their order; all of them where they are fewer."""
    if len(dataset) <= count:
        return dataset
    return dataset.select(sorted(random.Random(0).sample(range(len(dataset)), count)))


def halves(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """The rows of half of the people, and those of the others.

    Raises:
        InputError: there are no two people, nor two questions of nobody.
    """
    units = units_of(dataset)
    people = random.Random(0).sample(sorted(set(units)), len(set(units)))
    if len(people) < 2:
        raise InputError(
            f"retrain consistency: all {len(dataset)} retain rows are about one person; give rows about two or more, "
            "for those of one half align the models"
        )
    first = set(people[: len(people) // 2])
    is_first = [unit in first for unit in units]
    return tuple(
        dataset.select([number for number, value in enumerate(is_first) if value is wanted]) for wanted in (True, False)
    )


def _start(inspection: Inspection) -> Measure:
    data = inspection.data
    if data.retain is None:
        raise InputError("retrain consistency: there are no retain rows, to see what was moved that should stay")
    forget = sampled(data.forget, MOST_ROWS)
    retain, neutral = (sampled(half, len(forget)) for half in halves(data.retain))
    texts = [
        questions(inspection, dataset, name)
        for dataset, name in ((forget, "forget set"), (retain, "retain set"), (neutral, "retain set"))
    ]
    units = units_of(forget), units_of(retain)
    references: dict[str, States] = {}

    def measure(name: str, model: PreTrainedModel) -> dict[str, Any]:
        states = _states(model, texts, inspection.batch_size)
        is_oracle = name.startswith("oracle")
        if not references:
            references[name] = states
            return {}
        (_, original), *oracles = references.items()
        _check_shape(name, states, original)
        if is_oracle:
            references[name] = states
        if not oracles:
            if is_oracle:
                return {}
            raise InputError(
                "retrain consistency compares with a model that was retrained without the forget rows: give "
                "--oracle_model_name_or_path"
            )
        found = compare(original, oracles[0][1], states, *units)
        return {"consistency_ceiling" if is_oracle else "consistency": found}

    return measure


def _states(model: PreTrainedModel, texts: Sequence[Sequence[list[int]]], batch_size: int) -> States:
    last = [[[len(text) - 1] for text in of_kind] for of_kind in texts]
    return States(*(states_at(model, *kind, batch_size).numpy() for kind in zip(texts, last, strict=True)))


def _check_shape(name: str, states: States, original: States) -> None:
    layers, _, width = states.forget.shape
    expected = original.forget.shape[0], original.forget.shape[2]
    if (layers, width) != expected:
        raise InputError(
            f"retrain consistency: {name.replace('_', ' ')} has {layers} blocks of width {width}, the original "
            f"{expected[0]} of width {expected[1]}; compare models of one shape"
        )


AUDIT = Audit(
    "consistency",
    summary="whether hidden states moved to where retraining would have put them",
    sections=("consistency", "consistency_ceiling"),
    start=_start,
)
