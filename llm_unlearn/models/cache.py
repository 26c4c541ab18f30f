"""The user's cache folder: models that the package makes itself, each in a folder of its own, once.

A folder's name holds a hash of all that goes into it. Building one is safe against two processes that build at the same
time and against an interruption.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def cache_folder() -> Path:
    """`$LLM_UNLEARN_CACHE`, or `llm_unlearn` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llm_unlearn"
    return Path(os.environ.get("LLM_UNLEARN_CACHE", default))


def build_folder(folder: Path, build: Callable[[Path], None]) -> None:
    """Have `build` make `folder`, unless it is there: a folder of that name is always complete.

    Args:
        build: is given the path of a folder to make, which gets its name in the end.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The operating system drops the lock when a process dies; what that process left half-built is thrown away.
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            unfinished = folder.with_name(f"{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            build(unfinished)
            unfinished.rename(folder)  # atomic


def save_model_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a new folder as `from_pretrained` reads it."""
    # Not model.save_pretrained: that writes on the first process only, and any process may be the one to build.
    folder.mkdir()
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in model.cpu().state_dict().items():
        if all(tensor.data_ptr() != other.data_ptr() for other in weights.values()):  # else tied to an earlier one
            weights[name] = tensor
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def outcomes_folder(model_path: str) -> Path | None:
    """Where outcomes of an embedded model are kept, beside it: its folder's name fixes weights and data.

    None for any other model, and in a cache that may only be read.
    """
    folder = Path(model_path)
    if cache_folder() not in folder.parents or not os.access(folder.parent, os.W_OK):
        return None
    return folder.with_name(f"{folder.name}.outcomes")
