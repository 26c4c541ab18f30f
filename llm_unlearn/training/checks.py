"""What a trainer refuses before it trains, or even loads, anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llm_unlearn.errors import InputError
from llm_unlearn.models.answers import forward_answers
from llm_unlearn.models.loading import check_block
from llm_unlearn.models.scoring import evaluation_mode
from llm_unlearn.models.sharding import is_partitioned

if TYPE_CHECKING:
    from llm_unlearn.training.config import UnlearnConfig
    from llm_unlearn.training.trainer import UnlearnTrainer

NEEDS = ("logits", "reference_logps", "reference_logits", "reference_hidden_states", "alternates")


def check_arguments(trainer: UnlearnTrainer, args: UnlearnConfig) -> None:
    """Arguments that this trainer, or this machine, cannot follow.

    Raises:
        InputError: which, and what to give instead.
        TypeError: the trainer's class needs what nobody gives.
    """
    if not isinstance(args, trainer.config_class):
        needed = trainer.config_class.__name__
        raise InputError(f"{type(trainer).__name__} needs args of class {needed}, got {type(args).__name__}")
    if unknown := sorted(trainer.needs - set(NEEDS)):
        raise TypeError(f"{type(trainer).__name__}.needs: {unknown[0]!r} is unknown; choose from {', '.join(NEEDS)}")
    if args.n_gpu > 1:
        raise InputError(f"{args.n_gpu} GPUs in one process: start with `accelerate launch` (one process per GPU)")
    if args.device.type == "cpu" and args.fp16:
        raise InputError("fp16 needs a GPU; on a CPU use --bf16, or leave both out")
    if args.logits_chunk_size is not None and trainer.needs & {"logits", "reference_logits"}:
        raise InputError(
            f"logits_chunk_size={args.logits_chunk_size} keeps no logits, which {type(trainer).__name__} needs; "
            "leave it out"
        )


def check_model(trainer: UnlearnTrainer, adapter_is_made: bool) -> None:
    """A model that this trainer cannot train as it was given.

    Args:
        adapter_is_made: by the trainer, which then can switch it off.

    Raises:
        InputError: what is wrong, and what to give instead.
    """
    args, model = trainer.args, trainer.model
    if args.sharded_by == "FSDP" and not trainer.is_fsdp_enabled:  # Accelerate leaves it out without a word
        raise InputError(
            f"fsdp: Accelerate shards over several GPUs, not {args.world_size} x {args.device.type}; leave FSDP out"
        )
    live_reference = trainer.reference.compared_roles and not adapter_is_made
    if ("reference_logps" in trainer.needs or live_reference) and is_partitioned(model):
        raise InputError(
            "model: ZeRO 3 has sharded it at loading, and the reference needs it whole; pass its id or folder, or load "
            f"it before {type(args).__name__} is made"
        )
    check_hidden_layers(trainer)
    if args.logits_chunk_size is not None:
        _check_chunks(trainer)


def check_hidden_layers(trainer: UnlearnTrainer) -> None:
    """Blocks that a method names, and the model may not have.

    Raises:
        InputError: the first of them.
    """
    for layer in trainer.hidden_layers:
        check_block(trainer.model, layer, f"{type(trainer).__name__}.hidden_layers: layer")


def _check_chunks(trainer: UnlearnTrainer) -> None:
    """Make the logits of one row in chunks: some models cannot."""
    args, model = trainer.args, trainer.model
    if args.sharded_by:
        raise InputError(f"logits_chunk_size needs whole weights; leave it out, or {args.sharded_by}")
    batch = trainer.data_collator([trainer.train_dataset[0, 0, 0]])
    with torch.no_grad(), evaluation_mode(model):
        batch = {name: value.to(args.device) for name, value in batch.items()}
        forward_answers(model, batch, chunk_size=args.logits_chunk_size)
