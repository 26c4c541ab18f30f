"""What fails on one process fails on all, with the same words: else the others would wait for it in vain."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from llm_unlearn.errors import InputError, StorageError


@contextlib.contextmanager
def failing_together(written: str | Path | None = None) -> Iterator[None]:
    """A scope that every process enters and leaves; leaving it waits for all of them.

    Args:
        written: what is written within the scope, for the error.

    Raises:
        InputError, StorageError: on every process, where one of them raised it, or could not write.
    """
    error, cause = None, None
    try:
        yield
    except (InputError, StorageError) as found:
        error = cause = found
    except (Exception, CheckpointException) as found:
        reason = why_not_written(found)
        if written is None or reason is None:
            raise
        error, cause = StorageError(f"{written} could not be written: {reason}"), found
    failed = [one for one in gather_object([error and (type(error), str(error))]) if one]
    if failed:
        kind, text = failed[0]
        raise kind(text) from cause


def why_not_written(error: BaseException) -> str | None:
    """Why a file could not be written (a full disk, ...), if that is what an error is about; else None.

    Each library has its own: Python and NumPy raise OSError, safetensors its error with "I/O error: ...", the Rust of
    tokenizers a bare Exception that ends with the code of the operating system, and `torch.save` a RuntimeError of its
    zip writer or of the stream below it, which name no reason (as seen with PyTorch 2.13 on a full disk).
    """
    if isinstance(error, CheckpointException):  # of sharded states: what each process met with
        return next(filter(None, (why_not_written(one) for one, _ in error.failures.values())), None)
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        return error.strerror or text
    if isinstance(error, SafetensorError) and "I/O error: " in text:
        return text.partition("I/O error: ")[2]
    if type(error) is Exception and re.search(r"\(os error \d+\)$", text):
        return text
    zip_writer = ("inline_container.cc" in text, "PytorchStreamWriter failed" in text, "iostream error" in text)
    if type(error) is RuntimeError and (any(zip_writer) or re.match(r"Parent directory .* does not exist", text)):
        return f"no space left, or a folder that may not be written to ({text})"
    return None
