"""Checkpoints that are complete or absent, hold all that a run depends on, and are refused where they do not belong.

transformers writes a checkpoint's files one after another into the folder of its final name: whoever dies in between
leaves half a checkpoint, and it looks like the newest. Here the folder gets its name when everything is in it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object, save_fsdp_model, save_fsdp_optimizer
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments
from transformers.trainer import SCHEDULER_NAME

from llm_unlearn.errors import InputError, StorageError
from llm_unlearn.files.all_processes import failing_together
from llm_unlearn.files.outcomes import weights_digest
from llm_unlearn.models.sharding import sharding_of
from llm_unlearn.training.checkpoint_folders import (
    RECORD,
    TRAINER_STATE,
    check_checkpoint,
    checkpoint_to_resume,
    checksums,
    give_name,
    last_checkpoint,
    refuse_another_run,
    remove_oldest,
)

if TYPE_CHECKING:
    from llm_unlearn.training.trainer import UnlearnTrainer

UNFINISHED = "unfinished-checkpoint"
METHOD_STATE = "method_state.safetensors"
LOG_SUMS = "log_sums.safetensors"

# Fields of TrainingArguments that decide about a step, and must not change in the middle of a run.
STEP_SETTINGS = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_grad_norm", "optim"),
    *("optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "neftune_noise_alpha", "seed"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "fp16"),
)
# Of our own fields, those that may change: about a run's end, memory or files (rows that are cut are other rows).
NOT_OF_A_STEP = {"forget_check_steps", "max_forget_nll", "max_retain_nll", "max_length", "logits_chunk_size", "push"}
# Fields of an adapter that may change: where its base lies, and which version wrote it.
NOT_OF_AN_ADAPTER = {"base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version"}


class Checkpoints:
    """Of one trainer."""

    def __init__(self, trainer: UnlearnTrainer):
        self.trainer = trainer
        self._starting_model: str | None = None  # a digest of the weights as the trainer was given them
        self._starting_settings: dict[str, Any] | None = None  # before Accelerate and DeepSpeed replace the optimizer

    def prepare_to_resume(self, asked: str | bool | None) -> Path | None:
        """The checkpoint to go on from, with what it holds beyond a `Trainer`'s taken over; None: training begins.

        Raises:
            InputError: see `checkpoint_folders`; nothing has been loaded then.
        """
        args, saves = self.trainer.args, self.trainer.args.save_strategy != "no"
        self._starting_settings = self._settings()
        with failing_together():
            checkpoint = checkpoint_to_resume(asked, args.output_dir)
        if len(found := set(gather_object([str(checkpoint)]))) > 1:
            raise InputError(
                f"resume_from_checkpoint: processes find different checkpoints ({', '.join(sorted(found))}); "
                "output_dir must be a folder that all of them share"
            )
        with failing_together():
            if saves:
                refuse_another_run(args.output_dir, checkpoint)
            if args.should_save and (saves or checkpoint):
                self._starting_model = self._starting_model or self._digest_of_model()
            if args.should_save and checkpoint:
                check_checkpoint(checkpoint, self._record())
        self.trainer.load_method_state(self._load(checkpoint, METHOD_STATE))
        self.trainer.log_sums.load(self._load(checkpoint, LOG_SUMS))
        return checkpoint

    def _load(self, checkpoint: Path | None, name: str) -> dict[str, Any]:
        if checkpoint is None or not (checkpoint / name).is_file():
            return {}
        return {key: value.to(self.trainer.args.device) for key, value in load_file(checkpoint / name).items()}

    def save_sharded_optimizer(self, output_dir: str) -> None:
        """As transformers does it, but all processes learn of a failure before they meet for the next file."""
        trainer, accelerator = self.trainer, self.trainer.accelerator
        sharded, written = accelerator.state.fsdp_plugin, Path(trainer.args.output_dir, Path(output_dir).name)
        with failing_together(written):
            save_fsdp_model(sharded, accelerator, trainer.model, output_dir, adapter_only=True)
        with failing_together(written):
            save_fsdp_optimizer(sharded, accelerator, trainer.optimizer, trainer.model, output_dir)
            if self.trainer.args.should_save:
                torch.save(self.trainer.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def save(self, write: Callable[[], None]) -> None:
        """Have `write` (the Trainer's own way) write a checkpoint; the folder has its name when everything is in it.

        Raises:
            StorageError: the files could not be written; earlier checkpoints are as they were. On every process.
        """
        args, state = self.trainer.args, self.trainer.state
        output, name = Path(args.output_dir), f"checkpoint-{state.global_step}"
        unfinished, limit = output / UNFINISHED, args.save_total_limit
        log_sums = self.trainer.log_sums.state()  # of all processes
        if args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed while writing
        self.trainer.accelerator.wait_for_everyone()
        self.trainer._get_output_dir = lambda trial=None: str(unfinished)
        args.save_total_limit = None  # only what is complete makes older ones superfluous
        try:
            with failing_together(output / name):
                write()
            args.save_total_limit = limit
            self._find_best()
            with failing_together(output / name):
                if args.should_save:
                    self._complete(unfinished / name, log_sums)
                    give_name(unfinished / name, output / name)
                    remove_oldest(output, limit, output / name, state.best_model_checkpoint)
        except StorageError as error:
            if args.should_save:
                shutil.rmtree(unfinished, ignore_errors=True)
            kept = last_checkpoint(output)
            rest = f"{kept.name} is the last complete one" if kept else "there is no earlier one"
            raise StorageError(
                f"{error}; {rest}. Make room, or lower save_total_limit, and go on with --resume_from_checkpoint last"
            ) from error
        finally:
            del self.trainer._get_output_dir
            args.save_total_limit = limit

    def _complete(self, folder: Path, log_sums: dict[str, Any]) -> None:
        """What belongs to a checkpoint beyond what transformers writes."""
        for name, tensors in ((METHOD_STATE, self.trainer.method_state()), (LOG_SUMS, log_sums)):
            if tensors:
                whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
                save_file(whole, folder / name)
        if self.trainer.state.best_global_step:
            self.trainer.state.save_to_json(str(folder / TRAINER_STATE))
        record = self._record() | {"saved_at": time.time(), "files": checksums(folder)}
        (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")

    def _find_best(self) -> None:
        """Every process loads the best in the end; transformers looked for it beside the unfinished folder."""
        state = self.trainer.state
        best = Path(self.trainer.args.output_dir) / f"checkpoint-{state.best_global_step}"
        if state.best_global_step and (best.is_dir() or state.best_global_step == state.global_step):
            state.best_model_checkpoint = str(best)

    def _record(self) -> dict[str, Any]:
        """What this run is trained with (JSON values)."""
        rows = {
            "forget_dataset": self.trainer.forget_rows,
            "retain_dataset": self.trainer.row_sets["retain"],
            "general_dataset": self.trainer.row_sets["general"],
        }
        if self.trainer.row_sets["alternate"] is not None:
            rows["alternates"] = self.trainer.row_sets["alternate"]
        return {
            "method": self.trainer.method_name,
            "model": self._starting_model,
            **{name: encoded and _digest(encoded) for name, encoded in rows.items()},
            "settings": self._starting_settings,
            "save_only_model": self.trainer.args.save_only_model,
        }

    def _settings(self) -> dict[str, Any]:
        of_transformers = {field.name for field in fields(TrainingArguments)}
        own = {field.name for field in fields(self.trainer.args)} - of_transformers - NOT_OF_A_STEP
        wanted = [*STEP_SETTINGS, *sorted(name for name in own if not name.startswith("stop_at_"))]
        arguments = self.trainer.args.to_dict()
        if self.trainer.row_sets["general"] is None:  # then their weight and loss decide about nothing
            wanted = [name for name in wanted if name not in ("general_weight", "general_loss")]
        settings = {name: arguments.get(name) for name in wanted}
        settings |= {"num_processes": self.trainer.accelerator.num_processes, "sharding": sharding_of(self.trainer)}
        settings["optimizer"] = self._optimizer_class().__name__
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        adapter = model.peft_config[model.active_adapter] if isinstance(model, PeftModel) else None
        settings["peft_config"] = adapter and type(adapter).__name__
        for name, value in sorted(adapter.to_dict().items()) if adapter else []:
            if name not in NOT_OF_AN_ADAPTER:
                settings[f"peft_config.{name}"] = value
        return json.loads(
            json.dumps(settings, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
        )

    def _optimizer_class(self) -> type:
        if self.trainer.optimizer is None:
            return self.trainer.get_optimizer_cls_and_kwargs(self.trainer.args, self.trainer.model)[0]
        optimizer = self.trainer.optimizer
        while hasattr(
            optimizer, "optimizer"
        ):  # that of an earlier `train()`: Accelerate's, DeepSpeed's, the one inside
            optimizer = optimizer.optimizer
        return type(optimizer)

    def _digest_of_model(self) -> str:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        fresh = (
            {name for name, one in model.named_parameters() if one.requires_grad}
            if self.trainer.reference.adapter_is_fresh
            else ()
        )
        return weights_digest(model, without=fresh)


def _digest(rows: list[dict]) -> str:
    """Of all that a loss takes of the rows."""
    values = [[row[name] for name in ("input_ids", "labels", "weights") if name in row] for row in rows]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
