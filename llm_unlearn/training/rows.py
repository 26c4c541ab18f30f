"""The rows that a trainer draws from, by role, and how many of each a step holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from llm_unlearn.data import encode_dataset
from llm_unlearn.data.alternates import with_other_answers
from llm_unlearn.data.collators import PART_ROLES, EncodedRow
from llm_unlearn.training.config import UnlearnConfig


def encoded_row_sets(
    forget: Dataset,
    retain: Dataset | None,
    general: Dataset | None,
    alternates: Sequence[str] | None,
    args: UnlearnConfig,
    processing_class: PreTrainedTokenizerBase,
    true_allowed: bool = False,
) -> dict[str, list[EncodedRow] | None]:
    """Role -> encoded rows, in the order of a batch; None: there are none, or the loss takes none.

    Args:
        alternates: another answer to each forget question, or several such lists in one, where the method has them.
        true_allowed: they may be right by chance.

    Raises:
        InputError: as `encode_dataset` and `data.alternates.with_other_answers`.
    """
    lists = [alternates[start : start + len(forget)] for start in range(0, len(alternates or ()), len(forget))]
    others = [with_other_answers(forget, texts, true_allowed) for texts in lists]
    wanted = {
        "forget": (forget, "forget_dataset"),
        "alternate": (concatenate_datasets(others) if others else None, "alternate answers"),
        "retain": (retain if args.retain_loss != "none" else None, "retain_dataset"),
        "general": (general if args.general_weight else None, "general_dataset"),
    }
    return {
        role: None if dataset is None else encode_dataset(dataset, processing_class, args.max_length, name)
        for role, (dataset, name) in wanted.items()
    }


def count_items(batches: Sequence[dict[str, torch.Tensor]], accelerator: Accelerator) -> torch.Tensor:
    """Rows and answer tokens of each role over all micro-batches and processes, (roles, 2); at least 1 each."""
    counts = torch.zeros(len(PART_ROLES), 2, device=accelerator.device)
    for batch in batches:
        tokens = (batch["labels"][:, 1:] != -100).sum(1)
        for role in PART_ROLES.values():
            of_role = batch["roles"] == role
            counts[role] += torch.stack([of_role.sum(), tokens[of_role].sum()]).to(counts)
    return accelerator.reduce(counts, "sum").clamp(min=1)
