"""Where a model stands when it has read a question: hidden states at its last token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.models.hidden_states import states_at


def questions(rows: Sequence[EncodedRow]) -> list[list[int]]:
    """The tokens of each row up to its answer; of plain text, which asks nothing, all of them."""
    lengths = [next(i for i, label in enumerate(row["labels"]) if label != IGNORED) for row in rows]
    return [row["input_ids"][: length if length > 1 else None] for row, length in zip(rows, lengths, strict=True)]


def question_states(
    model: PreTrainedModel, contexts: Sequence[list[int]], layers: Sequence[int], batch_size: int = 64
) -> dict[int, np.ndarray]:
    """Number of a block -> its output at the last token of each text, (texts, width), in float32.

    Args:
        contexts: token ids of the texts.
    """
    states = states_at(model, contexts, [[len(ids) - 1] for ids in contexts], batch_size, layers)
    return dict(zip(layers, states.numpy(), strict=True))
