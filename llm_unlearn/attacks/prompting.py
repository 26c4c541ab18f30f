"""Prompting attack: the forgotten facts asked in other ways (`data.queries`), few-shot and multiple choice included.

A method that unlearned the question and not the fact answers these. Source: the rephrasings of Maini et al. 2024, arXiv
2401.06121 (TOFU), and Patil et al. 2023, arXiv 2309.17410.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.attacks._variants import variant
from llm_unlearn.attacks.attack import Attack, Target
from llm_unlearn.data import UnlearningData, forget_queries
from llm_unlearn.data.made_up import with_made_up_answers
from llm_unlearn.data.queries import QUERY_STYLES
from llm_unlearn.models.judging import Records, judge


def prompting(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    data: UnlearningData,
    max_length: int | None = None,
    kinds: str | None = None,
) -> dict:
    """Score the answers to every way of asking the forget facts; nothing is trained.

    Args:
        kinds: column that says which answers are of a kind, where knowledge is to be measured.

    Returns:
        As `asked_otherwise`.

    Raises:
        InputError: a query is longer than `max_length` (few-shot ones are four times as long as a question), or cannot
            be encoded.
    """
    queries = {f"forget_{style}": with_made_up_answers(rows, kinds) for style, rows in forget_queries(data).items()}
    return asked_otherwise(judge(model, processing_class, queries, max_length=max_length), queries)


class _Score(NamedTuple):
    probability: float
    exact_match: float


def asked_otherwise(records: Records, sets: Mapping[str, Dataset]) -> dict:
    """The outcome of the attack from the records of one model.

    Args:
        sets: forget_STYLE -> the judged rows, with the number of the forget `row` that each comes from.

    Returns:
        {"variants": {style: ...}}, the styles those of `data.queries.QUERY_STYLES` that were judged, each as
        `_variants.variant` gives it: by forget row (styles but verbatim ask only some), without retain scores.
    """
    variants = {}
    for style in QUERY_STYLES:
        name = "forget" if style == "verbatim" and "forget" in sets else f"forget_{style}"
        if name not in sets:
            continue
        probabilities, matches, known = (
            list(records.get(f"{name}_{metric}", {"value_by_index": {}})["value_by_index"].values())
            for metric in ("Q_A_Prob", "exact_match", "knowledge")
        )
        scores = [_Score(p["prob"], m["score"]) for p, m in zip(probabilities, matches, strict=True)]
        variants[style] = variant(
            scores,
            rows=sets[name]["row"] if "row" in sets[name].column_names else None,
            wins=[row["wins"] for row in known],
        )
    return {"variants": variants}


def _run(target: Target) -> dict:
    return prompting(target.model, target.processing_class, target.data, target.max_length, target.kinds)


ATTACK = Attack(
    "prompting",
    summary="ask for the same facts in other ways",
    title="Prompting",
    label="asked",
    on_card="the same facts are asked for in other ways; nothing is trained",
    run=_run,
)
