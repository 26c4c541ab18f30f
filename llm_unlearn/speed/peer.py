"""open-unlearning's trainers on the same model, rows and steps, from a checkout of its repository that is given.

They are run as they are. Two things are put around them: `compute_loss` takes the argument that newer versions of
transformers pass (theirs is written for 4.51), and the package's `__init__`, which needs Hydra, is passed over.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments

from llm_unlearn.data import encode_dataset
from llm_unlearn.data.collators import EncodedRow, pad_rows
from llm_unlearn.errors import InputError

PEERS = {"grad_diff": ("grad_diff", "GradDiff"), "npo": ("npo", "NPO")}


def peer_trainer(
    name: str,
    folder: str,
    args: TrainingArguments,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    datasets: Sequence[Dataset],
) -> Trainer:
    """A trainer of `PEERS` on forget rows and as many retain rows.

    Raises:
        InputError: `folder` is no checkout of open-unlearning.
    """
    forget, retain = (encode_dataset(rows, tokenizer, None, "rows") for rows in datasets)
    pairs = [{"forget": one, "retain": other} for one, other in zip(forget, retain, strict=True)]
    trainer = _adapted(name, folder)(model=model, args=args, train_dataset=pairs, data_collator=_paired_batch)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _adapted(name: str, folder: str) -> type[Trainer]:
    module, title = PEERS[name]
    package = Path(folder) / "src" / "trainer"
    if not (package / "unlearn" / f"{module}.py").is_file():
        raise InputError(f"open_unlearning={folder!r} has no src/trainer/unlearn/{module}.py; give a checkout of it")
    if "trainer" not in sys.modules:
        sys.modules["trainer"] = types.ModuleType("trainer")
        sys.modules["trainer"].__path__ = [str(package)]
    original = getattr(importlib.import_module(f"trainer.unlearn.{module}"), title)

    class Adapted(original):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return super().compute_loss(model, inputs, return_outputs)

    return Adapted


def _paired_batch(pairs: list[dict[str, EncodedRow]]) -> dict[str, dict[str, torch.Tensor]]:
    return {role: pad_rows([pair[role] for pair in pairs], pad_token_id=0) for role in ("forget", "retain")}
