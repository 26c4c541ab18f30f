"""Retrain consistency: did unlearning move the hidden states to where retraining would have put them?

Taken after every block at two places of each row, at which every model has read the same, and nothing of the value:

- "question": its last token, where whatever a model knows about whom it is asked for comes together;
- "value": the token before the value that is asked for, behind the words with which all answers of a kind begin.
  Where an answer begins with such words, this is where a model has to know it (the value: `asked.values_of`).

The first oracle is what retraining gives; another one, from another seed, in the place of the unlearned model is the
ceiling: no unlearned model need be nearer to an oracle than oracles are to each other.

Half of the retained people are compared, as many rows as forget rows. Rows of the other half are neutral: on them the
coordinates of two models are brought to match for the aligned numbers, without a look at what is compared.

The numbers: `metrics/consistency.py`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from llm_unlearn.audits.asked import MOST_ROWS, answers_of, asked_values, check_shape, sampled, shape_of
from llm_unlearn.audits.audit import Audit, Inspection, Measure
from llm_unlearn.data.identity import units_of
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError
from llm_unlearn.metrics.consistency import States, compare
from llm_unlearn.models.hidden_states import states_at
from llm_unlearn.models.patching import Asked

MOST_NEUTRAL_ROWS = 512
QUESTION, VALUE = "question", "value"


@dataclass(frozen=True)
class Looked:
    """Texts that all models read.

    Attributes:
        places: place -> its position in each text.
        units: the number of the person of each.
    """

    texts: list[tuple[int, ...]]
    places: dict[str, list[int]]
    units: list[int]

    def states(self, model: PreTrainedModel, batch_size: int) -> dict[str, np.ndarray]:
        """Place -> the hidden states of a model there, (blocks, texts, width)."""
        positions = [*zip(*self.places.values(), strict=True)]
        found = states_at(model, self.texts, positions, batch_size).numpy()
        return {place: found[:, number :: len(self.places)] for number, place in enumerate(self.places)}


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
    numbers: dict[bool, list[int]] = {True: [], False: []}
    for number, unit in enumerate(units):
        numbers[unit in first].append(number)
    return dataset.select(numbers[True]), dataset.select(numbers[False])


def looked_at(inspection: Inspection, datasets: list[Dataset]) -> list[Looked]:
    """Where to look in the rows of each data set: at the questions and, if values are found in all, at the values.

    Raises:
        InputError: the rows are plain text.
    """
    if not all(split_rows(dataset, "rows")[0][0] for dataset in datasets):
        raise InputError(
            "retrain consistency: plain text has no question, at the end of which to compare; split it in two columns"
        )
    try:
        values = [asked_values(inspection, dataset, "rows (consistency)") for dataset in datasets]
    except InputError:
        if inspection.group_by not in (None, *datasets[0].column_names):
            raise
        rows = [inspection.encoded(dataset, "rows (consistency)") for dataset in datasets]
        return [
            _looked(dataset, answers_of(part), [None] * len(part)) for dataset, part in zip(datasets, rows, strict=True)
        ]
    return [
        _looked(texts, answers_of(inspection.encoded(texts, "rows (consistency)")), found) for texts, found in values
    ]


def _looked(texts: Dataset, answers: list[Asked], values: list[Asked | None]) -> Looked:
    has_values = any(values)
    numbers = [number for number, value in enumerate(values) if value is not None or not has_values]
    places = {QUESTION: [answers[number].start - 1 for number in numbers]}
    if has_values:
        places[VALUE] = [values[number].start - 1 for number in numbers]
    units = units_of(texts)
    return Looked([answers[number].ids for number in numbers], places, [units[number] for number in numbers])


def _start(inspection: Inspection) -> Measure:
    data = inspection.data
    if data.retain is None:
        raise InputError("retrain consistency: there are no retain rows, to see what was moved that should stay")
    forget = sampled(data.forget, MOST_ROWS)
    compared, others = halves(data.retain)
    looked = looked_at(inspection, [forget, sampled(compared, len(forget)), sampled(others, MOST_NEUTRAL_ROWS)])
    units = [one.units for one in looked[:2]]
    shape: tuple[int, int] | None = None
    references: list[dict[str, States]] = []  # of the original and the oracle

    def measure(name: str, model: PreTrainedModel) -> dict[str, Any]:
        nonlocal shape
        shape = shape or shape_of(model)
        check_shape("retrain consistency", name, shape_of(model), shape)
        is_reference = not references or (len(references) == 1 and name.startswith("oracle"))
        if len(references) < 2 and not is_reference:
            raise InputError(
                "retrain consistency compares with a model that was retrained without the forget rows: give "
                "--oracle_model_name_or_path"
            )
        parts = [one.states(model, inspection.batch_size) for one in looked]
        states = {place: States(*(part[place] for part in parts)) for place in parts[0]}
        if is_reference:
            references.append(states)
            return {}
        original, oracle = references
        found = {place: compare(original[place], oracle[place], here, *units) for place, here in states.items()}
        return {"consistency_ceiling" if name.startswith("oracle") else "consistency": found}

    return measure


AUDIT = Audit(
    "consistency",
    summary="whether hidden states moved to where retraining would have put them",
    sections=("consistency", "consistency_ceiling"),
    start=_start,
)
