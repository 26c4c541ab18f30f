"""One attack on one model, from the data sets as they were loaded."""

from __future__ import annotations

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.attacks.relearning import AttackBudget, adversarial_reinjection, benign_relearning
from llm_unlearn.data import UnlearningData, encode_dataset


def run_attack(
    attack: str,
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    data: UnlearningData,
    budget: AttackBudget,
    *,
    instructions: Dataset,
    retain_rows: int = 100,
    max_length: int | None = None,
    title: str | None = None,
) -> dict:
    """Attack a copy of `model`; returns what `relearning.summarize_runs` returns.

    Args:
        attack: "adversarial_reinjection" or "benign_relearning".
        instructions: rows of benign tuning.
        retain_rows: at least this many retain rows (and fewer than twice as many), evenly spread, are scored along the
            curve; without a retain set there are no retain scores.
    """

    def encoded(dataset: Dataset, name: str):
        return encode_dataset(dataset, processing_class, max_length, name)

    title = title or attack.replace("_", " ")
    forget = encoded(data.forget, "forget set")
    retain = []
    if data.retain is not None:
        spread = range(0, len(data.retain), max(1, len(data.retain) // retain_rows))
        retain = encoded(data.retain.select(spread), "retain set")
    if attack == "benign_relearning":
        return benign_relearning(model, encoded(instructions, "instructions"), forget, retain, budget, title)
    return adversarial_reinjection(model, forget, retain, budget, fact_ids_of(data), title)


def fact_ids_of(data: UnlearningData) -> list[str | int] | None:
    """The fact of each forget row, or None where rows carry no `fact_id`: then every row is its own fact."""
    return list(data.forget["fact_id"]) if "fact_id" in data.forget.column_names else None
