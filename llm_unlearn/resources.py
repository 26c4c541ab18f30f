"""What a run will need, found out before it begins: a folder to write to, room on the disk, and memory."""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from llm_unlearn.errors import InputError, StorageError
from llm_unlearn.modeling import decoder_layers

if TYPE_CHECKING:
    from llm_unlearn.trainer import UnlearnTrainer

ADAM_STATES = 2  # running means of the gradient and of its square, in the parameters' type


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

    Args:
        needed: bytes, as from `bytes_to_write`.
        what: it consists of, and `fix`: what makes it less, for the error.
    """
    path = Path(output_dir)
    replaced = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else 0
    free = shutil.disk_usage(_nearest_folder(path)).free
    if free + replaced < needed:
        raise StorageError(
            f"output_dir={str(output_dir)!r}: the run writes about {size_words(needed)} ({what}), but the disk has "
            f"{size_words(free)} left: make room, give another --output_dir, or {fix}"
        )


def bytes_to_write(trainer: UnlearnTrainer) -> int:
    """About what a run leaves on the disk at most: the weights, and checkpoints with their optimizer states.

    Left out: tokenizer, results and figures, a few MB. An optimizer with less state than AdamW writes less.
    """
    args = trainer.args
    trainable = _bytes(parameter for parameter in trainer.model.parameters() if parameter.requires_grad)
    weights = trainable if hasattr(trainer.model, "peft_config") else _bytes(trainer.model.parameters())
    if args.save_strategy == "no":
        return weights
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    epoch = math.ceil(len(trainer.forget_rows) / rows)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * epoch)
    # below 1, save_steps is a share of all steps
    every = epoch if args.save_strategy == "epoch" else args.save_steps * (steps if args.save_steps < 1 else 1)
    checkpoints = max(1, math.ceil(steps / max(1, every)))
    if args.save_total_limit is not None:
        checkpoints = min(checkpoints, args.save_total_limit + 1)  # the oldest goes when the newest is complete
    return weights + checkpoints * (weights + ADAM_STATES * trainable)


def reference_words(trainer: UnlearnTrainer) -> str:
    """Where the losses that compare with the model before training take it from."""
    sources = ["log-probabilities of the forget rows, computed once"] * trainer.needs_reference_logps
    if trainer.compares_logits:
        sources.append("the adapter switched off" if trainer._adapter_is_fresh else "a frozen copy")
    return "; ".join(sources) or "none"


def estimated_memory(trainer: UnlearnTrainer) -> dict[str, int]:
    """About the bytes of a training step on each device, by what they are for.

    - weights: all parameters and buffers, and those of a frozen copy.
    - gradients, optimizer: of the trainable parameters alone; AdamW holds two values for each.
    - activations: inputs and outputs of every linear map in the blocks, for the tokens of one micro-batch, all of its
      rows as long as the longest; with gradient checkpointing, one value of the hidden size per block, and one block.
    - logits: three values (logits; log-probabilities in float32, and their gradient) for each token of the vocabulary,
      at the answer tokens of that micro-batch.

    Of a Llama of 30 M parameters on a CPU (16 rows of 120 tokens at once) this came to 1.30 times the measured growth
    of the process with LoRA, and to 0.79 times with all weights trained.

    Left out: the libraries themselves, attention scores, what kernels need for a moment and the allocator cannot reuse,
    second and third passes of methods that have them (SAM; Ssiuu's kept gradients), the copies that the attacks train,
    and the savings of sharding (FSDP, DeepSpeed) and of quantized optimizers.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    trainable = _bytes(parameter for parameter in model.parameters() if parameter.requires_grad)
    weights = _bytes(model.parameters()) + _bytes(model.buffers())
    frozen_copy = trainer.compares_logits and not trainer._adapter_is_fresh
    row_sets = [rows for rows in (trainer.forget_rows, trainer.retain_rows, trainer.general_rows) if rows]
    rows = [*itertools.chain(*row_sets)]
    at_once = args.per_device_train_batch_size * len(row_sets)
    tokens = at_once * max(len(row["input_ids"]) for row in rows)
    answers = at_once * max(sum(label != -100 for label in row["labels"]) for row in rows)
    size = 2 if args.bf16 or args.fp16 else next(model.parameters()).element_size()
    blocks = [_linear_width(block) for block in decoder_layers(model)]
    per_token = sum(blocks)
    if args.gradient_checkpointing or args.activation_checkpointing:
        per_token = max(blocks) + len(blocks) * model.config.get_text_config().hidden_size
    vocabulary = model.get_output_embeddings().weight.shape[0]
    return {
        "weights": weights * (1 + frozen_copy),
        "gradients": trainable,
        "optimizer": ADAM_STATES * trainable,
        "activations": tokens * per_token * size,
        "logits": answers * vocabulary * (size + 2 * 4),
    }


def memory_words(trainer: UnlearnTrainer) -> str:
    """`estimated_memory` in words and, on a GPU, what the device has."""
    parts = estimated_memory(trainer)
    words = ", ".join(f"{name} {size_words(value)}" for name, value in parts.items())
    text = f"about {size_words(sum(parts.values()))} a device ({words})"
    device = trainer.args.device
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        text += f"; {torch.cuda.get_device_name(device)} has {size_words(total)}, {size_words(free)} free"
    return text


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


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _linear_width(block: nn.Module) -> int:
    """Inputs and outputs of a block's linear maps, an adapter's included, whatever class they are of."""
    weights = [module.weight for module in block.modules() if getattr(getattr(module, "weight", None), "ndim", 0) == 2]
    # of 4-bit weights, the shape is that of their storage; quant_state has the map's
    shapes = [getattr(getattr(weight, "quant_state", None), "shape", weight.shape) for weight in weights]
    return sum(sum(shape) for shape in shapes)
