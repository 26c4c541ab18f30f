"""One attack on one model, from the data sets as they were loaded."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.attacks.relearning import (
    AttackBudget,
    adversarial_reinjection,
    benign_relearning,
    leave_one_group_out,
    retain_relearning,
)
from llm_unlearn.data import UnlearningData, encode_dataset
from llm_unlearn.errors import InputError

ATTACKS = ("adversarial_reinjection", "benign_relearning", "retain_relearning", "leave_one_group_out")


def run_attack(
    attack: str,
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    data: UnlearningData,
    budget: AttackBudget,
    *,
    instructions: Dataset | None = None,
    retain_rows: int = 100,
    max_length: int | None = None,
    title: str | None = None,
    pool: Sequence[int] | None = None,
    group_column: str | None = None,
) -> dict:
    """Attack a copy of `model`; returns what `relearning.summarize_runs` returns.

    Args:
        attack: one of `ATTACKS`.
        instructions: rows of benign tuning.
        retain_rows: at least this many retain rows (and fewer than twice as many), evenly spread, are scored along the
            curve; without a retain set there are no retain scores.
        pool: numbers of the forget rows that take part in reinjection; by default all.
        group_column: of the forget rows: whose values are left out in turn (see `groups_of`).

    Raises:
        InputError: the data is not enough for this attack.
    """

    def encoded(dataset: Dataset | None, name: str):
        return encode_dataset(dataset, processing_class, max_length, name) if dataset is not None else []

    title = title or attack.replace("_", " ")
    forget = encoded(data.forget, "forget set")
    retain = []
    if data.retain is not None:
        spread = range(0, len(data.retain), max(1, len(data.retain) // retain_rows))
        retain = encoded(data.retain.select(spread), "retain set")
    match attack:
        case "adversarial_reinjection":
            return adversarial_reinjection(model, forget, retain, budget, fact_ids_of(data), title, pool=pool)
        case "leave_one_group_out":
            return leave_one_group_out(model, forget, retain, budget, groups_of(data, group_column), title)
        case "benign_relearning":
            return benign_relearning(model, encoded(instructions, "instructions"), forget, retain, budget, title)
        case "retain_relearning":
            return retain_relearning(model, encoded(data.retain, "retain set"), forget, retain, budget, title)
    raise InputError(f"attack={attack!r} is unknown: choose from {', '.join(ATTACKS)}")


def fact_ids_of(data: UnlearningData) -> list[str | int] | None:
    """The fact of each forget row, or None where rows carry no `fact_id`: then every row is its own fact."""
    return list(data.forget["fact_id"]) if "fact_id" in data.forget.column_names else None


def groups_of(data: UnlearningData, column: str | None = None) -> list[str | int]:
    """The group of each forget row: its value in `column`, by default its person if there are several, else its fact.

    Raises:
        InputError: no such column.
    """
    columns = data.forget.column_names
    if column is not None and column not in columns:
        raise InputError(
            f"leave_out_column={column!r} is no column of the forget rows: choose from {', '.join(columns)}"
        )
    if column is None and "person" in columns and len(set(data.forget["person"])) > 1:
        column = "person"
    return list(data.forget[column]) if column else fact_ids_of(data) or list(range(len(data.forget)))
