"""Folders of checkpoints: which is the newest, whether one is as it was written, and whether it belongs to a run."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

from llm_unlearn.errors import InputError

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"
RECORD = "trained_on.json"  # what the run was trained with, when it was saved, and a checksum of every other file
ROWS_OF_A_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_processes")
_BLOCK = 2**20


def complete_checkpoints(output_dir: str | Path) -> list[Path]:
    """The complete checkpoints in a folder, in the order in which they were saved, wherever they were copied since."""
    folders = Path(output_dir).glob("checkpoint-*")
    return sorted((folder for folder in folders if _step(folder) is not None), key=_when_saved)


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The complete checkpoint in `output_dir` that was saved last, or None."""
    return next(reversed(complete_checkpoints(output_dir)), None)


def checkpoint_to_resume(asked: str | bool | None, output_dir: str | Path) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` means: a folder, or with "last" (or True) the newest, if any.

    Raises:
        InputError: the folder holds no complete checkpoint.
    """
    if not asked:
        return None
    if asked is True or str(asked).lower() in ("last", "true"):
        return last_checkpoint(output_dir)
    if not (Path(asked) / TRAINER_STATE).is_file():
        newest = last_checkpoint(output_dir)
        fix = f"; the last complete one is {newest}" if newest else ""
        raise InputError(
            f"resume_from_checkpoint: {asked} holds no complete checkpoint (no {TRAINER_STATE}){fix}. "
            "`last` takes the newest in output_dir, or starts anew where there is none"
        )
    return Path(asked)


def refuse_another_run(output_dir: str | Path, resumed: Path | None) -> None:
    """Raise InputError where a run that saves checkpoints would replace those of another run."""
    found = last_checkpoint(output_dir)
    if found is None or (resumed is not None and resumed.resolve().parent == found.resolve().parent):
        return
    raise InputError(
        f"output_dir={str(output_dir)!r} holds checkpoints of another run, the last of them {found.name}: go on from "
        "it with --resume_from_checkpoint last, or give another output_dir; nothing there is replaced"
    )


def check_checkpoint(checkpoint: Path, now: dict[str, Any]) -> None:
    """Refuse a checkpoint that is not as it was written, or that a run as it is `now` cannot go on from.

    Args:
        now: the record that this run would write: method, digests of its rows and of the model, settings.

    Raises:
        InputError: the damaged file, or what differs.
    """
    then = _read_record(checkpoint)
    _check_files(checkpoint, then["files"])
    if then["save_only_model"]:
        raise InputError(
            f"resume_from_checkpoint: {checkpoint} was saved with save_only_model, without the optimizer's state: a "
            "run cannot go on from it; take it as a model, or start anew in another output_dir"
        )
    if then["method"] != now["method"]:
        _refuse(checkpoint, f"another method ({then['method']}, now {now['method']})")
    _check_settings(checkpoint, then["settings"], now["settings"])
    for name in ("forget_dataset", "retain_dataset", "general_dataset", "alternates", "model"):
        before = then.get(name)  # of general rows, earlier versions said nothing: they had none
        if before != now.get(name) and (before or name != "model"):  # a digest is there where saving was foreseen
            _refuse(checkpoint, f"other {name}" if name == "alternates" else f"another {name}")


def checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file in a folder but its record and what is for people, by its name relative to the folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in (RECORD, "README.md"))
    return {file.relative_to(folder).as_posix(): _checksum(file) for file in files}


def give_name(finished: Path, final: Path) -> None:
    """Move a finished checkpoint to its place, of which it then holds all or nothing, even if the power fails."""
    for file in finished.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
    replaced = finished.with_name("replaced")
    if final.exists():  # half of one, or what this run saved before it was resumed from an earlier step
        final.rename(replaced)
    finished.rename(final)  # atomic
    shutil.rmtree(finished.parent)


def remove_oldest(output_dir: Path, limit: int | None, *kept: str | Path | None) -> None:
    """Leave `limit` checkpoints, or as many as have to be `kept`."""
    folders = complete_checkpoints(output_dir)
    spare = [folder for folder in folders if folder not in [Path(one) for one in kept if one]]
    for folder in spare[: max(0, len(folders) - limit) if limit else 0]:
        shutil.rmtree(folder, ignore_errors=True)


def _step(folder: Path) -> int | None:
    step = folder.name.removeprefix("checkpoint-")
    return int(step) if step.isdigit() and (folder / TRAINER_STATE).is_file() else None


def _when_saved(folder: Path) -> tuple[float, int]:
    """Seconds since 1970, and the step. What cannot be read counts as newest: to be refused, not to be passed over."""
    try:
        saved_at = float(json.loads((folder / RECORD).read_text(encoding="utf-8"))["saved_at"])
    except FileNotFoundError:  # of another trainer
        saved_at = 0.0
    except (OSError, ValueError, KeyError, TypeError):
        saved_at = math.inf
    return saved_at, _step(folder)


def _read_record(checkpoint: Path) -> dict[str, Any]:
    file = checkpoint / RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        needed = {"method", "model", "forget_dataset", "retain_dataset", "settings", "save_only_model", "files"}
        if missing := sorted(needed - record.keys()):
            raise ValueError(f"{missing[0]} is missing")
    except FileNotFoundError:
        raise InputError(
            f"resume_from_checkpoint: {checkpoint} has no {RECORD}, so nobody can tell what it was trained with; take "
            "a checkpoint of this trainer that is complete"
        ) from None
    except (OSError, ValueError, AttributeError) as error:
        raise _damaged(file, " ".join(str(error).split())) from error
    return record


def _check_files(checkpoint: Path, written: dict[str, int]) -> None:
    for name, checksum in written.items():
        file = checkpoint / name
        if not file.is_file():
            raise _damaged(file, "it is not there")
        try:
            is_whole = _checksum(file) == checksum
        except OSError as error:
            raise _damaged(file, error.strerror) from error
        if not is_whole:
            raise _damaged(file, "its content is not what was written")


def _damaged(file: Path, why: str) -> InputError:
    return InputError(
        f"resume_from_checkpoint: {file} is damaged ({why}): copy the checkpoint again, or take an earlier one (`last` "
        f"does when {file.parent} is gone)"
    )


def _check_settings(checkpoint: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [name for name in then if name in now and then[name] != now[name]]
    if not changed:
        return
    shown = ", ".join(f"{name}={_short(then[name])} (now {_short(now[name])})" for name in changed)
    rows = [math.prod(settings[name] for name in ROWS_OF_A_STEP) for settings in (then, now)]
    if rows[0] != rows[1] or not set(changed) <= set(ROWS_OF_A_STEP):
        _refuse(checkpoint, f"other settings: {shown}")
    logger.warning(
        "%s was trained with %s: the same rows in each step, but not the same numbers to the last bit",
        checkpoint,
        shown,
    )


def _short(value: Any) -> str:
    return text if len(text := str(value)) <= 60 else f"{text[:60]}..."  # names of all modules


def _refuse(checkpoint: Path, differing: str) -> None:
    raise InputError(
        f"resume_from_checkpoint: {checkpoint} was trained with {differing}; give what it was trained with, or another "
        "output_dir to start anew"
    )


def _checksum(file: Path) -> int:
    value = 0
    with open(file, "rb") as opened:
        while block := opened.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value
