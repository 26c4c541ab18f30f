"""Whether a run can write what it will write, found out before it begins."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from llm_unlearn.errors import InputError, StorageError
from llm_unlearn.files.run_folder import stays


def check_output_dir(output_dir: str | Path) -> None:
    """Raise InputError where nothing could be written to `output_dir`; creates nothing."""
    if not str(output_dir).strip():
        raise InputError(f"output_dir={str(output_dir)!r} is empty; give a folder")
    check_writable(Path(output_dir), f"output_dir={str(output_dir)!r}")


def check_writable(path: Path, name: str) -> None:
    """Raise InputError where a folder `path` cannot be made or written to; `name` is what the error calls it."""
    existing = _nearest_folder(path)
    if not existing.is_dir():
        raise InputError(f"{name}: {existing} is a file; give a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"{name}: nothing can be written to {existing} ({error.strerror}); give another folder, or make that one "
            "writable"
        ) from error


def check_free_space(
    output_dir: str | Path,
    needed: int,
    what: str = "weights and checkpoints",
    fix: str = "fewer checkpoints with --save_total_limit",
) -> None:
    """Raise StorageError where the disk has less room than a run will take; what it replaces counts as room.

    That is checkpoints and steps, not what is moved aside.

    Args:
        needed: bytes, as from `bytes_to_write`.
        what: it consists of, and `fix`: what makes it less, for the error.
    """
    path = Path(output_dir)
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    replaced = sum(file.stat().st_size for file in files if not stays(file.relative_to(path)))
    free = shutil.disk_usage(_nearest_folder(path)).free
    if free + replaced < needed:
        raise StorageError(
            f"output_dir={str(output_dir)!r}: the run writes about {size_words(needed)} ({what}), but the disk has "
            f"{size_words(free)} left: make room, give another --output_dir, or {fix}"
        )


def size_words(size: float) -> str:
    """Bytes in a unit that suits them: 1536 -> "1.5 KB" (of 1024 bytes)."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"


def _nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest thing above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())
