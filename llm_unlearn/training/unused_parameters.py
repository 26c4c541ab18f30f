"""Whether plain data parallelism must look for parameters that a step leaves out: it costs time, and warns if needless.

The Trainer asks PyTorch to look in nearly every run. A mixture of experts needs that, and so does a model with parts
that text does not reach; most models do not.
"""

from __future__ import annotations

import torch
from transformers import Trainer

from llm_unlearn.data.collators import FORGET, UnlearnCollator
from llm_unlearn.models.scoring import evaluation_mode


def look_for_unused_parameters_if_there_are(trainer: Trainer) -> None:
    """Decided by the gradient of the shortest forget row, unless `ddp_find_unused_parameters` says what to do."""
    args, accelerator = trainer.args, trainer.accelerator
    if accelerator.num_processes == 1 or args.sharded_by or args.ddp_find_unused_parameters is not None:
        return
    # All processes must do the same; one row gives all the same answer, but for rounding in what routes to experts.
    found = torch.tensor(float(leaves_parameters_out(trainer)), device=args.device)
    if not accelerator.reduce(found, "sum"):
        accelerator.ddp_handler.find_unused_parameters = False


def leaves_parameters_out(trainer: Trainer) -> bool:
    """Whether the answers of the shortest forget row depend on fewer parameters than are trained."""
    row = min(trainer.forget_rows, key=lambda row: len(row["input_ids"]))
    batch = UnlearnCollator(trainer.processing_class.pad_token_id)([{"forget": {**row, "role": FORGET, "index": 0}}])
    batch = {name: value.to(trainer.args.device) for name, value in batch.items()}
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    with evaluation_mode(trainer.model), trainer.compute_loss_context_manager():
        said = trainer.compute_answers(trainer.model, batch).token_logps
    return any(gradient is None for gradient in torch.autograd.grad(said.sum(), trained, allow_unused=True))
