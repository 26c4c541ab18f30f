"""Runs of several methods on however many processes start this file; started by test_two_processes.py.

    torchrun --nproc_per_node 2 two_process_runs.py FOLDER [fsdp2]

With fsdp2, those methods run that can be sharded. Every process writes FOLDER/rank{r}.json (per method: world size,
parameter sums, log lines), the first one also FOLDER/{method}.safetensors (what was trained).
"""

import json
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from builders import (
    arguments,
    largest_difference,
    lora_config,
    qa_rows,
    step_logs,
    tiny_model,
    tiny_tokenizer,
    trainable,
)
from safetensors.torch import save_file
from sharded_on_cpu import allow_fsdp_on_cpu

from llm_unlearn import (
    GradientAscentConfig,
    GradientAscentTrainer,
    NPOConfig,
    NPOTrainer,
    SAMConfig,
    SAMTrainer,
    SsiuuConfig,
    SsiuuTrainer,
    UnlearnConfig,
    UnlearnTrainer,
)


class ScalarLossTrainer(UnlearnTrainer):
    """A custom method that takes its own mean."""

    def forget_loss(self, answers):
        return answers.forget.logps.mean()


RUNS = {  # name -> (trainer class, configuration class, forget rows, options); batches of 2 x 2 rows
    "grad_diff": (GradientAscentTrainer, GradientAscentConfig, 8, {}),
    "full": (GradientAscentTrainer, GradientAscentConfig, 7, {"retain_loss": "kl"}),  # no adapter
    # The last batch of an epoch has one row less; resumed in the middle of the second epoch, and of a log line.
    "npo": (
        NPOTrainer,
        NPOConfig,
        7,
        {"retain_loss": "kl", "logging_steps": 2, "save_strategy": "steps", "save_steps": 3},
    ),
    # In the last step of an epoch one process has no row at all.
    "ssiuu": (SsiuuTrainer, SsiuuConfig, 5, {"logging_steps": 2}),
    # Influence over the whole forget set, of which each process takes a share.
    "published": (
        SsiuuTrainer,
        SsiuuConfig,
        7,
        {
            "variant": "published",
            "influence_of": "log_probability",
            "regularizer_weight": 1e3,
            "save_strategy": "steps",
            "save_steps": 3,
        },
    ),
    "exact": (SsiuuTrainer, SsiuuConfig, 5, {"variant": "exact"}),
    # Again one process has no row in the last step; the direction of the perturbation is that of the global batch.
    "sam": (SAMTrainer, SAMConfig, 5, {"rho": 0.3, "save_strategy": "steps", "save_steps": 3}),
    "scalar": (ScalarLossTrainer, UnlearnConfig, 5, {"stop_at_forget_probability": 0.0172}),
}
SHARDED = ("grad_diff", "full", "npo", "scalar")
FSDP2 = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}}


def build(name: str, folder: Path, world_size: int, sharded: bool = False) -> UnlearnTrainer:
    trainer_class, config_class, forget, options = RUNS[name]
    options = options | (FSDP2 if sharded else {})
    trainer = trainer_class(
        model=tiny_model(),
        args=arguments(
            config_class,
            folder / "out" / name,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2 // world_size,
            num_train_epochs=3,
            learning_rate=1e-3,
            adam_epsilon=1e-4,  # else Adam makes a step of full size out of a gradient that is only rounding
            **options,
        ),
        forget_dataset=qa_rows(forget),
        retain_dataset=qa_rows(9, start=20),
        processing_class=tiny_tokenizer(),
        peft_config=None if name == "full" else lora_config(),
    )
    assert trainer.args.world_size == trainer.accelerator.num_processes == world_size
    assert trainer.is_fsdp_enabled == sharded
    return trainer


def whole_weights(trainer: UnlearnTrainer) -> dict[str, torch.Tensor]:
    """The trainable weights; of a sharded model put together, on the first process."""
    if not trainer.is_fsdp_enabled:
        return trainable(trainer.model)
    named = dict(trainer.model.named_parameters())
    state = trainer.accelerator.get_state_dict(trainer.model)
    return {name: value for name, value in state.items() if name in named and named[name].requires_grad}


def run_all(folder: Path, sharded: bool = False) -> None:
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    report = {}
    for name in SHARDED if sharded else RUNS:
        trainer = build(name, folder, world_size, sharded)
        trainer.train()
        weights = whole_weights(trainer)
        report[name] = {
            "world_size": trainer.args.world_size,
            "sums": {
                key: [value.double().sum().item(), value.double().norm().item()] for key, value in weights.items()
            },
            "steps": trainer.state.global_step,
            "stopped_by": trainer.stopped_by,
            "log": step_logs(trainer),
            "evaluation": trainer.evaluate(),
        }
        if rank == 0:
            save_file(weights, folder / f"{name}.safetensors")
        trainer.save_model(str(folder / "saved" / name))
        if trainer.args.save_strategy == "steps":
            resumed = build(name, folder, world_size, sharded)
            start = trainable(resumed.model)
            resumed.train(resume_from_checkpoint=str(folder / "out" / name / "checkpoint-3"))
            end = whole_weights(resumed)
            report[name]["resumed"] = {
                "differences": [largest_difference(reached, weights) for reached in (start, end)] if weights else [],
                "log": step_logs(resumed),
            }
    (folder / f"rank{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    if "fsdp2" in sys.argv:
        allow_fsdp_on_cpu()
    run_all(Path(sys.argv[1]), "fsdp2" in sys.argv)
