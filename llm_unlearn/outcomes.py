"""Outcomes that took long, kept in files: the same question about the same model is answered once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

FORMAT = 3  # raise it when attacks change in a way that the keys do not show


def digest_of(key: object) -> str:
    """A short hash of all that decides an outcome (JSON values)."""
    return hashlib.sha256(json.dumps([key, FORMAT]).encode()).hexdigest()[:16]


def remember(file: Path, key: object, compute: Callable[[], dict]) -> dict:
    """`compute()`, kept in `file` as soon as it is there; read from it where that was decided by the same `key`.

    Args:
        file: receives {"digest": ..., "outcome": ...}; an outcome of another key is replaced.
        key: everything that the outcome depends on (JSON values).
    """
    digest = digest_of(key)
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["digest"] == digest:
            return kept["outcome"]
    kept = json.dumps({"digest": digest, "outcome": compute()}, ensure_ascii=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.unfinished")
    unfinished.write_text(kept, encoding="utf-8")
    unfinished.replace(file)  # atomic: two processes may have computed the same
    return json.loads(kept)["outcome"]


def weights_digest(model: nn.Module) -> str:
    """A hash of a model's class and of every weight, bit by bit."""
    found = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().contiguous().flatten().view(torch.uint8).cpu().numpy())
    return found.hexdigest()
