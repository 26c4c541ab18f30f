"""Checkpoints that are complete or absent, hold all that a run depends on, and are found again.

transformers writes a checkpoint's files one after another into the folder of its final name: whoever dies in between
leaves half a checkpoint, and it looks like the newest. Here the folder gets its name when everything is in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.trainer_utils import rotate_checkpoints

from llm_unlearn.errors import InputError, StorageError
from llm_unlearn.sharding import sharding_of

if TYPE_CHECKING:
    from llm_unlearn.trainer import UnlearnTrainer

UNFINISHED = "unfinished-checkpoint"
METHOD_STATE = "method_state.safetensors"
TRAINER_STATE = "trainer_state.json"
TRAINED_ON = "trained_on.json"


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The complete checkpoint of the most steps in `output_dir`, or None."""
    found = {}
    for folder in Path(output_dir).glob("checkpoint-*"):
        step = folder.name.removeprefix("checkpoint-")
        if step.isdigit() and (folder / TRAINER_STATE).is_file():
            found[int(step)] = folder
    return found[max(found)] if found else None


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


def check_checkpoint(trainer: UnlearnTrainer, checkpoint: Path) -> None:
    """Refuse to go on from a checkpoint of another method, of other rows, or of a model that was divided otherwise.

    Raises:
        InputError: what differs.
    """
    try:
        then = json.loads((checkpoint / TRAINED_ON).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return  # not written here: by an older version, or by another trainer
    for name, value in _trained_on(trainer).items():
        if then.get(name, value) != value:
            shown = f" ({then.get(name)}, now {value})" if name in ("method", "sharding") else ""
            raise InputError(
                f"resume_from_checkpoint: {checkpoint} was trained with another {name}{shown}; give what it was "
                "trained with, or another output_dir to start anew"
            )


def load_method_state(trainer: UnlearnTrainer, checkpoint: Path) -> None:
    """Give the trainer's method back what it had at the checkpoint."""
    file = checkpoint / METHOD_STATE
    state = load_file(file) if file.is_file() else {}
    trainer.load_method_state({key: value.to(trainer.args.device) for key, value in state.items()})


@contextlib.contextmanager
def written_whole(trainer: UnlearnTrainer) -> Iterator[None]:
    """Within this scope, the trainer writes a checkpoint; the folder has its name when the scope is left.

    Raises:
        StorageError: the files could not be written; earlier checkpoints are as they were.
    """
    args, state, accelerator = trainer.args, trainer.state, trainer.accelerator
    output, name = Path(args.output_dir), f"checkpoint-{state.global_step}"
    unfinished = output / UNFINISHED
    limit = args.save_total_limit
    if args.should_save:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed while writing
    accelerator.wait_for_everyone()
    trainer._get_output_dir = lambda trial=None: str(unfinished)
    args.save_total_limit = None  # only what is complete makes older ones superfluous
    try:
        yield
        accelerator.wait_for_everyone()
        _find_best(trainer)
        if args.should_save:
            _complete(trainer, unfinished / name)
            _give_name(unfinished / name, output / name)
            rotate_checkpoints(str(output), limit, state.best_model_checkpoint, use_mtime=True)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        if isinstance(error, RuntimeError) and "file" not in str(error).lower():
            raise
        shutil.rmtree(unfinished, ignore_errors=True)
        kept = last_checkpoint(output)
        rest = f"{kept.name} is the last complete one" if kept else "there is no earlier one"
        raise StorageError(
            f"{output / name} could not be written: {_reason(error)}; {rest}. Make room, or lower save_total_limit, "
            "and go on with --resume_from_checkpoint last"
        ) from error
    finally:
        del trainer._get_output_dir
        args.save_total_limit = limit
    accelerator.wait_for_everyone()


def _complete(trainer: UnlearnTrainer, folder: Path) -> None:
    """What belongs to a checkpoint beyond what transformers writes."""
    if method_state := trainer.method_state():
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in method_state.items()}, folder / METHOD_STATE
        )
    (folder / TRAINED_ON).write_text(json.dumps(_trained_on(trainer), indent=2), encoding="utf-8")
    if trainer.state.best_global_step:
        trainer.state.save_to_json(str(folder / TRAINER_STATE))


def _find_best(trainer: UnlearnTrainer) -> None:
    """Every process loads the best checkpoint in the end; transformers looked for it beside the unfinished folder."""
    state = trainer.state
    best = Path(trainer.args.output_dir) / f"checkpoint-{state.best_global_step}"
    if state.best_global_step and (best.is_dir() or state.best_global_step == state.global_step):
        state.best_model_checkpoint = str(best)


def _give_name(finished: Path, final: Path) -> None:
    replaced = finished.with_name("replaced")
    if final.exists():  # of an earlier run in the same folder
        final.rename(replaced)
    finished.rename(final)  # atomic
    shutil.rmtree(finished.parent)


def _trained_on(trainer: UnlearnTrainer) -> dict[str, str | None]:
    rows = {"forget_dataset": trainer.forget_rows, "retain_dataset": trainer.retain_rows}
    digests = {
        name: hashlib.sha256(json.dumps([[row["input_ids"], row["labels"]] for row in encoded]).encode()).hexdigest()
        for name, encoded in rows.items()
        if encoded is not None
    }
    of_rows = {name: digests.get(name) for name in rows}
    return {"method": trainer.method_name, "sharding": sharding_of(trainer), **of_rows}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())
