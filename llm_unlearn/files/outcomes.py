"""Outcomes that took long, kept in files: the same question about the same model is answered once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Container
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import nn

from llm_unlearn.files.whole import json_digest, write_whole

logger = logging.getLogger(__name__)

FORMAT = 6  # raise it when attacks or scores change in a way that the keys do not show


def digest_of(key: object) -> str:
    """A short hash of all that decides an outcome (JSON values)."""
    return hashlib.sha256(json.dumps([key, FORMAT]).encode()).hexdigest()[:16]


def remember(file: Path, key: object, compute: Callable[[], dict | None], *, wait: bool = True) -> dict | None:
    """`compute()`, kept in `file` as soon as it is there; read from it where that was decided by the same `key`.

    Processes share work by this: whoever comes first computes, and what the others find is the outcome in the file.

    Args:
        file: receives {"digest": ..., "outcome": ..., "sha256": ...}; an outcome of another key, or one that is not
            what was found, is replaced.
        key: everything that the outcome depends on (JSON values).
        compute: returns the outcome, or None for one that another process is at.
        wait: for a process that is at this outcome; otherwise the answer is None.
    """
    digest = digest_of(key)
    lock = FileLock(file.with_name(f"{file.name}.lock"))  # dropped by the operating system when its process dies
    found = _kept(file, digest)
    if found is not None and not Path(lock.lock_file).exists():
        return found
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = lock.acquire(timeout=-1 if wait and found is None else 0)
    except Timeout:
        return found
    with held:
        try:
            for left in file.parent.glob(f"{file.name}.*.unfinished"):  # by a process that was killed
                left.unlink()
            return _kept(file, digest) or _computed(file, digest, compute)
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)  # who waits for it holds its handle already


def _computed(file: Path, digest: str, compute: Callable[[], dict | None]) -> dict | None:
    outcome = compute()
    if outcome is None:
        return None
    kept = {"digest": digest, "outcome": outcome, "sha256": json_digest(outcome)}
    text = json.dumps(kept, ensure_ascii=False)
    write_whole(file, [text])
    return json.loads(text)["outcome"]


def _kept(file: Path, digest: str) -> dict | None:
    if not file.is_file():
        return None
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["digest"] != digest:
            return None
        if isinstance(kept["outcome"], dict) and kept.get("sha256") == json_digest(kept["outcome"]):
            return kept["outcome"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # damaged, or not ours
    logger.warning("%s is damaged, or of an earlier version: what it held is computed again, and replaced", file)
    return None


def weights_digest(model: nn.Module, without: Container[str] = ()) -> str:
    """A hash of a model's class and of every weight, bit by bit, but those whose names are in `without`."""
    found = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in model.state_dict().items():
        if name in without:
            continue
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().contiguous().flatten().view(torch.uint8).cpu().numpy())
    return found.hexdigest()
