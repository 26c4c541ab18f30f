"""What audits ask models for: questions, the answers to them, and in an answer the value that is asked for."""

from __future__ import annotations

import random
from collections.abc import Sequence

from datasets import Dataset
from transformers import PreTrainedModel

from llm_unlearn.attacks.counterfactual import counterfactual_rows, true_rows
from llm_unlearn.audits.audit import Inspection
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.errors import InputError
from llm_unlearn.models.loading import decoder_layers
from llm_unlearn.models.patching import Asked

MOST_ROWS = 256  # of each kind that an audit looks at


def sampled(dataset: Dataset, count: int) -> Dataset:
    """So many of the rows, the same ones each time and in their order; all of them where they are fewer."""
    if len(dataset) <= count:
        return dataset
    return dataset.select(sorted(random.Random(0).sample(range(len(dataset)), count)))


def asked_values(inspection: Inspection, rows: Dataset, name: str) -> tuple[Dataset, list[Asked | None]]:
    """The rows as the logit lens takes them, with the value in each: what made-up answers to it do not share.

    Raises:
        InputError: no other answers can be made, or no row has one.
    """
    true = true_rows(rows, inspection.group_by)
    others = [counterfactual_rows(rows, seed, inspection.group_by) for seed in inspection.derangement_seeds]
    values = values_of(inspection.encoded(true, name), [inspection.encoded(other, name) for other in others])
    if not any(values):
        raise InputError(f"{name}: no row has an answer that differs from the made-up ones; give other answers")
    return true, values


def answers_of(rows: Sequence[EncodedRow]) -> list[Asked]:
    """All tokens of the answers."""
    starts = [next(i for i, label in enumerate(row["labels"]) if label != IGNORED) for row in rows]
    return [Asked(tuple(row["input_ids"]), start, len(row["labels"])) for row, start in zip(rows, starts, strict=True)]


def values_of(rows: Sequence[EncodedRow], others: Sequence[Sequence[EncodedRow]]) -> list[Asked | None]:
    """Of each row the tokens that its answer does not share with the others, from the first such to the last.

    Args:
        others: the same questions with other answers, in the same order, any number of times.

    Returns:
        None where all answers are the same.
    """
    found: list[Asked | None] = []
    for number, answer in enumerate(answers_of(rows)):
        parts = [_difference(answer.ids, other[number]["input_ids"]) for other in others]
        parts = [(start, end) for start, end in parts if answer.start <= start < len(answer.ids)]
        span = (min(start for start, _ in parts), max(end for _, end in parts)) if parts else None
        found.append(Asked(answer.ids, *span) if span else None)
    return found


def _difference(ids: Sequence[int], other: Sequence[int]) -> tuple[int, int]:
    """Where they are no longer the same from the front, and from the back; one token at least."""
    shorter = min(len(ids), len(other))
    start = next((i for i in range(shorter) if ids[i] != other[i]), shorter)
    same = next((i for i in range(shorter - start) if ids[-1 - i] != other[-1 - i]), shorter - start)
    return start, max(len(ids) - same, start + 1)


def shape_of(model: PreTrainedModel) -> tuple[int, int]:
    """The number of its blocks and the width of its hidden states."""
    return len(decoder_layers(model)), model.config.get_text_config().hidden_size


def check_shape(audit: str, name: str, shape: tuple[int, int], original: tuple[int, int]) -> None:
    """Whether the hidden states of a model can stand beside the original's.

    Raises:
        InputError: it has other blocks, or another width.
    """
    if shape != original:
        raise InputError(
            f"{audit}: {name.replace('_', ' ')} has {shape[0]} blocks of width {shape[1]}, the original {original[0]} "
            f"of width {original[1]}; compare models of one shape"
        )
