"""What a run will need of the disk and of the device's memory, estimated before it begins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.files.disk import size_words
from llm_unlearn.models.loading import decoder_layers
from llm_unlearn.models.precision import HALVES, autocast_dtype

if TYPE_CHECKING:
    from llm_unlearn.attacks.relearning import AttackBudget
    from llm_unlearn.training.trainer import UnlearnTrainer

ADAM_STATES = 2  # running means of the gradient and of its square, in the parameters' type


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
    sources = ["log-probabilities of the forget rows, computed once"] * ("reference_logps" in trainer.needs)
    if trainer.reference.compared_roles:
        sources.append("the adapter switched off" if trainer.reference.adapter_is_fresh else "a frozen copy")
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
    second and third passes of methods that have them (SAM; Ssiuu's kept gradients), the copies that the attacks train
    (`attack_memory`), and the savings of sharding (FSDP, DeepSpeed) and of quantized optimizers.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    trainable = _bytes(parameter for parameter in model.parameters() if parameter.requires_grad)
    weights = _bytes(model.parameters()) + _bytes(model.buffers())
    frozen_copy = bool(trainer.reference.compared_roles) and not trainer.reference.adapter_is_fresh
    row_sets = [rows for rows in trainer.row_sets.values() if rows]
    at_once = args.per_device_train_batch_size * len(row_sets)
    rows = [*itertools.chain(*row_sets)]
    size = 2 if args.bf16 or args.fp16 else next(model.parameters()).element_size()
    blocks = [_linear_width(block) for block in decoder_layers(model)]
    checkpointed = args.gradient_checkpointing or args.activation_checkpointing
    return {
        "weights": weights * (1 + frozen_copy),
        "gradients": trainable,
        "optimizer": ADAM_STATES * trainable,
    } | _of_rows(model, rows, at_once, blocks, size, checkpointed)


def attack_memory(trainer: UnlearnTrainer, budget: AttackBudget) -> dict[str, int]:
    """About the bytes of a relearning step on the device, by what they are for; of two attackers, those of the larger.

    As `estimated_memory`, with what `attacks.copies.attackable_copy` makes of the model:

    - weights: those of the model itself and of its copy, all in float32 for the full attacker, and for the lora
      attacker as they are stored. With autocast, also the matrices in 16 bits, which the backward needs; with
      activation checkpointing, of one block alone.
    - activations, logits: of `micro_batch_size` rows as long as the longest forget or retain row.

    Of a Llama of 4 M parameters (8 rows of 83 tokens) activations, logits and matrices in 16 bits came to 0.94 times
    what the backward kept of the full attacker in float32, to 0.77 times in bfloat16, and to 1.2 times of the lora
    attacker on bfloat16.

    Left out, besides what is left out there: instructions that are longer than those rows, the scoring along the curve,
    and what is left over from training on the device.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    adapter = sum(parameter.numel() for name, parameter in model.named_parameters() if "lora_" in name)
    count = model.num_parameters() - adapter  # weights in 4 bits, too, which are stored in pairs
    stored = _stored(trainer)
    computing = autocast_dtype(stored, trainer.args.device)
    shapes = [_linear_shapes(block, with_adapter=False) for block in decoder_layers(model)]
    blocks = [sum(map(sum, block)) for block in shapes]
    at_once = min(budget.batch_size, budget.micro_batch_size or budget.batch_size)
    rows = [*trainer.forget_rows, *(trainer.row_sets["retain"] or [])]
    estimates = []
    for attacker in budget.attackers:
        in_float32 = attacker == "full" or stored == torch.float16
        trained = count if attacker == "full" else budget.lora_r * sum(blocks)
        weights = count * (stored.itemsize + (4 if in_float32 else stored.itemsize))
        weights += 4 * trained if attacker == "lora" else 0
        if in_float32 and computing in HALVES:
            matrices = [sum(map(math.prod, block)) for block in shapes]
            cast = max(matrices) if budget.activation_checkpointing else sum(matrices)
            weights += (cast + model.get_output_embeddings().weight.numel()) * computing.itemsize
        size = computing.itemsize if attacker == "full" else 4  # an adapter takes what enters a map in float32
        parts = {"weights": weights, "gradients": 4 * trained, "optimizer": ADAM_STATES * 4 * trained}
        estimates.append(parts | _of_rows(model, rows, at_once, blocks, size, budget.activation_checkpointing))
    return max(estimates, key=lambda parts: sum(parts.values()))


def memory_words(trainer: UnlearnTrainer) -> str:
    """`estimated_memory` in words and, on a GPU, what the device has."""
    text = _parts_words(estimated_memory(trainer))
    device = trainer.args.device
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        text += f"; {torch.cuda.get_device_name(device)} has {size_words(total)}, {size_words(free)} free"
    return text


def attack_memory_words(trainer: UnlearnTrainer, budget: AttackBudget) -> str:
    """`attack_memory` in words, and what the forwards of models with float32 weights compute in."""
    computing = autocast_dtype(_stored(trainer), trainer.args.device)
    return f"{_parts_words(attack_memory(trainer, budget))}, computing in {str(computing).removeprefix('torch.')}"


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _stored(trainer: UnlearnTrainer) -> torch.dtype:
    """The type that the model was loaded in, which its attacked copies begin with."""
    return trainer.accelerator.unwrap_model(trainer.model).config.dtype or torch.float32


def _parts_words(parts: dict[str, int]) -> str:
    words = ", ".join(f"{name} {size_words(value)}" for name, value in parts.items())
    return f"about {size_words(sum(parts.values()))} a device ({words})"


def _of_rows(
    model: PreTrainedModel, rows: list[EncodedRow], at_once: int, blocks: list[int], size: int, checkpointed: bool
) -> dict[str, int]:
    """Activations and logits of so many rows at once, all as long as the longest.

    Args:
        blocks: the `_linear_width` of each block.
        size: bytes of a value in the blocks.
    """
    tokens = at_once * max(len(row["input_ids"]) for row in rows)
    answers = at_once * max(sum(label != -100 for label in row["labels"]) for row in rows)
    per_token = sum(blocks)
    if checkpointed:
        per_token = max(blocks) + len(blocks) * model.config.get_text_config().hidden_size
    vocabulary = model.get_output_embeddings().weight.shape[0]
    return {"activations": tokens * per_token * size, "logits": answers * vocabulary * (size + 2 * 4)}


def _linear_width(block: nn.Module, with_adapter: bool = True) -> int:
    """Inputs and outputs of a block's linear maps."""
    return sum(sum(shape) for shape in _linear_shapes(block, with_adapter))


def _linear_shapes(block: nn.Module, with_adapter: bool = True) -> list[torch.Size]:
    """Shapes of a block's linear maps, whatever class they are of."""
    weights = [
        module.weight
        for name, module in block.named_modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) == 2 and (with_adapter or "lora_" not in name)
    ]
    if not with_adapter:  # else an adapted map counts twice: itself, and the map inside it
        weights = list({id(weight): weight for weight in weights}.values())
    # of 4-bit weights, the shape is that of their storage; quant_state has the map's
    return [getattr(getattr(weight, "quant_state", None), "shape", weight.shape) for weight in weights]
