"""open-unlearning's trainers on the same model, rows and steps, from a checkout of its repository that is given.

They are run as they are. Three things are put around them: `compute_loss` takes the argument that newer versions of
transformers pass (theirs is written for 4.51), the package's `__init__`, which needs Hydra, is passed over, and so is
an import of DeepSpeed that only names a class.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments

from llm_unlearn.data import encode_dataset
from llm_unlearn.data.alternates import other_answers, with_other_answers
from llm_unlearn.data.collators import EncodedRow, pad_rows
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.errors import InputError


@dataclass(frozen=True)
class Peer:
    """One of their trainers, and the method of ours that has the same loss.

    Attributes:
        title: its class.
        method: ours.
        options, config: its arguments and our fields, for the same loss as far as there are such.
        set_alike: which of their defaults that changes.
        differs: how its loss is another one all the same.
    """

    title: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    set_alike: str = ""
    differs: str = ""


ANSWER = {"forget_loss_unit": "answer"}
PEERS = {  # their module -> trainer
    "grad_diff": Peer("GradDiff", "gradient_ascent"),
    "npo": Peer("NPO", "npo", {"beta": 0.1}, ANSWER, "a sum over each answer (forget_loss_unit answer)"),
    "simnpo": Peer("SimNPO", "simnpo", {"beta": 4.5, "gamma": 0.125}, set_alike="beta, and the forget loss's weight"),
    "undial": Peer(
        "UNDIAL", "undial", {"beta": 10.0}, differs="a mean over all positions, those of prompts and padding included"
    ),
    "wga": Peer("WGA", "wga"),
    "satimp": Peer(
        "SatImp", "satimp", {"gamma": 0.1, "alpha": 1.0}, set_alike="0.1 weighs the forget loss, not the retain loss"
    ),
    "ceu": Peer(
        "CEU",
        "ce_u",
        {"ignore_first_n_answer_tokens": 0},
        {"retain_loss": "none"},
        "the first token of an answer counts; no retain loss",
    ),
    "pdu": Peer(
        "PDU",
        "pdu",
        {"retain_loss_eps": 1.0, "primal_dual": True},
        {"epsilon": 1.0},
        differs="the logits at the answer's own tokens, not at those that predict them",
    ),
    "dpo": Peer("DPO", "dpo", {"beta": 0.1}, ANSWER, "a sum over each answer (forget_loss_unit answer)"),
    "rmu": Peer(
        "RMU",
        "rmu",
        {
            "retain_loss_type": "EMBED_DIFF",
            "module_regex": r"model\.layers\.1",
            "trainable_params_regex": [r"model\.layers\.[01]\.mlp\.down_proj\.weight"],
        },
        {"layer": 1},
        "the block, the direction",
        "the states at the answer's own tokens, and a mean over each row first",
    ),
}


def peer_trainer(
    name: str,
    folder: str,
    args: TrainingArguments,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    datasets: Sequence[Dataset],
    moved: Sequence[str] = (),
) -> Trainer:
    """A trainer of `PEERS` on forget rows and as many retain rows.

    Args:
        moved: roles (forget, retain) whose labels stand one token earlier, where they are predicted.

    Raises:
        InputError: `folder` is no checkout of open-unlearning.
    """
    peer = PEERS[name]
    forget, retain = (encode_dataset(rows, tokenizer, None, "rows") for rows in datasets)
    pairs = [{"forget": one, "retain": other} for one, other in zip(forget, retain, strict=True)]
    if peer.title == "DPO":
        texts = other_answers(datasets[0], None, args.seed)
        others = encode_dataset(with_other_answers(datasets[0], texts), tokenizer, None, "rows")
        pairs = [pair | {"alternate": other} for pair, other in zip(pairs, others, strict=True)]
    trainer_class = _adapted(name, folder)
    collate = partial(_paired_batch, moved=moved)
    trainer = trainer_class(model=model, args=args, train_dataset=pairs, data_collator=collate, **peer.options)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _adapted(name: str, folder: str) -> type[Trainer]:
    package = Path(folder) / "src" / "trainer"
    if not (package / "unlearn" / f"{name}.py").is_file():
        raise InputError(f"open_unlearning={folder!r} has no src/trainer/unlearn/{name}.py; give a checkout of it")
    if "trainer" not in sys.modules:
        sys.modules["trainer"] = types.ModuleType("trainer")
        sys.modules["trainer"].__path__ = [str(package)]
    original = getattr(_module(f"trainer.unlearn.{name}"), PEERS[name].title)

    class Adapted(original):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return super().compute_loss(model, inputs, return_outputs)

    return Adapted


def _module(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "deepspeed":
            raise
    sys.modules["deepspeed"] = types.ModuleType("deepspeed")
    sys.modules["deepspeed"].DeepSpeedEngine = type("DeepSpeedEngine", (), {})
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules["deepspeed"]  # others look whether it is installed


def _paired_batch(pairs: list[dict[str, EncodedRow]], moved: Sequence[str]) -> dict[str, Any]:
    batch = {role: pad_rows([pair[role] for pair in pairs], pad_token_id=0) for role in pairs[0]}
    for role in moved:
        labels = batch[role]["labels"]
        batch[role]["labels"] = torch.cat([labels[:, 1:], labels.new_full((len(pairs), 1), IGNORED)], dim=1)
    if "alternate" in batch:
        batch["forget"] = {"original": batch["forget"], "alternate": batch.pop("alternate")}
    return batch
