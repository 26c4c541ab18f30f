"""Prompting attack: the forgotten facts asked in other ways (`data.queries`), few-shot and multiple choice included.

A method that unlearned the question and not the fact answers these. Source: the rephrasings of Maini et al. 2024, arXiv
2401.06121 (TOFU), and Patil et al. 2023, arXiv 2309.17410.
"""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.attacks._variants import variant
from llm_unlearn.data import UnlearningData, encode_dataset, forget_queries
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.scoring import score_answers


def prompting(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    data: UnlearningData,
    max_length: int | None = None,
) -> dict:
    """Score the answers to every way of asking the forget facts; nothing is trained.

    Returns:
        {"variants": {style: ...}}, the styles those of `data.queries.QUERY_STYLES` that the data supports, each as
        `_variants.variant` gives it: by forget row (styles but verbatim ask only some), without retain scores.

    Raises:
        InputError: as `encoded_queries`.
    """
    queries = encoded_queries(processing_class, data, max_length)
    # All styles at once: equal rows are scored once, and rows with the same prompt share its tokens.
    scores = iter(score_answers(model, [row for _, rows in queries.values() for row in rows]))
    return {
        "variants": {
            style: variant([next(scores) for _ in numbers], rows=numbers) for style, (numbers, _) in queries.items()
        }
    }


def encoded_queries(
    processing_class: PreTrainedTokenizerBase, data: UnlearningData, max_length: int | None = None
) -> dict[str, tuple[list[int], list[EncodedRow]]]:
    """By style, the forget row that each query comes from and the encoded queries; runs no model.

    Raises:
        InputError: a query is longer than `max_length` (few-shot ones are four times as long as a question), or cannot
            be encoded.
    """
    return {
        style: (list(rows["row"]), encode_dataset(rows, processing_class, max_length, f"{style} queries"))
        for style, rows in forget_queries(data).items()
    }
