"""Runs of several methods on however many processes start this file; started by test_two_processes.py.

    torchrun --nproc_per_node 2 two_process_runs.py FOLDER [fsdp2 | zero2 | zero3]

With one of these, those methods run that can be sharded. Every process writes FOLDER/rank{r}.json (per method: world
size, parameter sums, log lines). FOLDER/saved/{method} is the saved model, FOLDER/resumed/{method} a resumed run's.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from builders import arguments, lora_config, qa_rows, step_logs, tiny_model, tiny_tokenizer, trainable
from sharded_on_cpu import allow_fsdp_on_cpu
from trainers import METHODS, OWN, rows_for
from transformers import TrainerCallback

from llm_unlearn import (
    DPOConfig,
    DPOTrainer,
    GradientAscentConfig,
    GradientAscentTrainer,
    NPOConfig,
    NPOTrainer,
    RMUConfig,
    RMUTrainer,
    SAMConfig,
    SAMTrainer,
    SsiuuConfig,
    SsiuuTrainer,
    UnlearnConfig,
    UnlearnTrainer,
)
from llm_unlearn.errors import DivergenceError
from llm_unlearn.methods.ssiuu_published import PublishedSsiuuConfig, PublishedSsiuuTrainer


class ScalarLossTrainer(UnlearnTrainer):
    """A custom method that takes its own mean."""

    def forget_loss(self, answers):
        return answers.forget.logps.mean()


class CountSteps(TrainerCallback):
    steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1


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
    # As npo; a pass over the five general rows ends within a step.
    "general": (
        NPOTrainer,
        NPOConfig,
        7,
        {"general_loss": "kl", "general_weight": 2.0, "save_strategy": "steps", "save_steps": 3},
    ),
    # In the last step of an epoch one process has no row at all.
    "ssiuu": (SsiuuTrainer, SsiuuConfig, 5, {"logging_steps": 2}),
    # Influence over the whole forget set, of which each process takes a share.
    "published": (
        PublishedSsiuuTrainer,
        PublishedSsiuuConfig,
        7,
        {
            "influence_of": "log_probability",
            "regularizer_weight": 1e3,
            "save_strategy": "steps",
            "save_steps": 3,
        },
    ),
    "exact": (SsiuuTrainer, SsiuuConfig, 5, {"variant": "exact"}),
    # Again one process has no row in the last step; the direction of the perturbation is that of the global batch.
    "sam": (SAMTrainer, SAMConfig, 5, {"rho": 0.3, "save_strategy": "steps", "save_steps": 3}),
    "sam_general": (SAMTrainer, SAMConfig, 5, {"rho": 0.3}),
    # Each forget row travels with another answer; once more one process has no row in the last step.
    "dpo": (DPOTrainer, DPOConfig, 5, {"save_strategy": "steps", "save_steps": 3}),
    # Hidden states of the middle of a model, and what they were; with general rows, kept by their logits.
    "rmu": (RMUTrainer, RMUConfig, 5, {"layer": 0, "save_strategy": "steps", "save_steps": 3}),
    "rmu_full": (RMUTrainer, RMUConfig, 7, {"layer": 1, "general_loss": "kl"}),
    "scalar": (ScalarLossTrainer, UnlearnConfig, 5, {"stop_at_forget_probability": 0.0172}),
    # The forget rows are likeliest after the first of six steps.
    "best": (
        GradientAscentTrainer,
        GradientAscentConfig,
        7,
        {
            "save_strategy": "steps",
            "save_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "metric_for_best_model": "forget_probability",
            "greater_is_better": True,
            "load_best_model_at_end": True,
        },
    ),
    # Ends in the fourth step, with the weights after the third.
    "diverged": (GradientAscentTrainer, GradientAscentConfig, 7, {"max_forget_nll": 4.5}),
    "unused": (GradientAscentTrainer, GradientAscentConfig, 7, {"max_steps": 2}),  # a parameter that no step reaches
}
SAVED = {"save_strategy": "steps", "save_steps": 3}
SHORT = {"num_train_epochs": 1}
# All other methods, in the last step of an epoch with one process that has no row at all.
OTHERS = {
    "altpo": SHORT,
    "ce_u": SHORT,
    "cmf": SAVED | {"base_loss": "npo"},  # each process runs a share of the rows that class means are taken over
    "counterfactual": SAVED,  # its guesses are drawn by epoch and row, not by process
    "idk": SHORT,
    "maxent": SHORT,
    "pdu": SAVED | {"epsilon": 3.0},  # its multiplier is of the global batch
    "relabel": SHORT,
    "retain_only": SHORT,
    "rewind": SAVED,
    "satimp": SHORT,
    "simnpo": SHORT,
    "task_vector": SAVED,  # its retain rows are not drawn: that process has nothing but filler
    "undial": SAVED,
    "undo": SAVED,  # damaged alike in both processes
    "wga": SHORT,
    "whp": SAVED,
}
RUNS |= {
    name: (METHODS[name].trainer, METHODS[name].config, 5, OWN.get(name, {}) | options)
    for name, options in OTHERS.items()
}
FULL = ("full", "rmu_full", "best", "diverged", "unused", "rewind", "undial", "undo")  # without an adapter
GENERAL = ("general", "sam_general", "rmu_full")  # with general rows
RESUMED = ("npo", "general", "published", "sam", "dpo", "rmu", "best")
RESUMED += tuple(name for name, options in OTHERS.items() if options is not SHORT)
SHARDED = ("grad_diff", "full", "npo", "general", "dpo", "rmu", "rmu_full", "scalar", "best", "diverged")
SHARDED += ("simnpo", "undial", "ce_u", "pdu")
FSDP2 = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}}
AUTO = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")


def sharding(kind: str | None) -> dict:
    """The training arguments that shard a model in one of three ways, or not."""
    if kind is None or kind == "fsdp2":
        return FSDP2 if kind else {}
    zero = {"stage": int(kind.removeprefix("zero")), "stage3_gather_16bit_weights_on_model_save": True}
    return {
        "deepspeed": {"zero_optimization": zero, "zero_allow_untested_optimizer": True} | dict.fromkeys(AUTO, "auto")
    }


def build(name: str, folder: Path, world_size: int, kind: str | None = None) -> UnlearnTrainer:
    trainer_class, config_class, forget, options = RUNS[name]
    forget_rows, retain_rows = rows_for(name, qa_rows(forget), qa_rows(9, start=20))
    trainer = trainer_class(
        args=arguments(
            config_class,
            folder / "out" / name,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2 // world_size,
            **{"num_train_epochs": 3, "learning_rate": 1e-3} | options,
            adam_epsilon=1e-4,  # else Adam makes a step of full size out of a gradient that is only rounding
            **sharding(kind),
        ),
        model=str(folder / "base"),  # loaded when the arguments are there, as recipes do: ZeRO 3 would shard it
        forget_dataset=forget_rows,
        retain_dataset=retain_rows,
        general_dataset=qa_rows(5, start=10) if name in GENERAL else None,
        processing_class=tiny_tokenizer(),
        peft_config=None if name in FULL else lora_config(),
    )
    if name == "unused":
        trainer.model.unused = torch.nn.Parameter(torch.ones(1))
    assert trainer.args.world_size == trainer.accelerator.num_processes == world_size
    assert trainer.is_fsdp_enabled == (kind == "fsdp2")
    assert trainer.is_deepspeed_enabled == (kind in ("zero2", "zero3"))
    return trainer


def run_all(folder: Path, kind: str | None = None) -> None:
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    tiny_model().save_pretrained(folder / "base")  # by all processes, the same bytes
    report = {}
    for name in SHARDED if kind else RUNS:
        trainer = build(name, folder, world_size, kind)
        try:
            trainer.train()
            diverged = None
        except DivergenceError as error:
            diverged = str(error).partition(". The weights")[0]  # without the folder
        weights = {} if kind else trainable(trainer.model)
        report[name] = {
            "world_size": trainer.args.world_size,
            "sums": {
                key: [value.double().sum().item(), value.double().norm().item()] for key, value in weights.items()
            },
            "steps": trainer.state.global_step,
            "stopped_by": trainer.stopped_by,
            "diverged": diverged,
            "best": trainer.state.best_global_step,
            "looked_for_unused_parameters": getattr(trainer.model_wrapped, "find_unused_parameters", None),
            "log": step_logs(trainer),
            "evaluations": [line for line in trainer.state.log_history if "eval_forget_probability" in line],
            "evaluation": trainer.evaluate(),
        }
        trainer.save_model(str(folder / "saved" / name))
        if name in RESUMED:
            resumed = build(name, folder, world_size, kind)
            resumed.add_callback(counter := CountSteps())
            checkpoint = folder / "out" / name / "checkpoint-3"
            if name == "best":  # as if the run had been stopped after that one
                if rank == 0:
                    for step in (4, 5, 6):
                        shutil.rmtree(checkpoint.with_name(f"checkpoint-{step}"))
                resumed.accelerator.wait_for_everyone()
                checkpoint = "last"
            resumed.train(resume_from_checkpoint=str(checkpoint))
            resumed.save_model(str(folder / "resumed" / name))
            report[name]["resumed"] = {"steps": counter.steps, "log": step_logs(resumed)}
    (folder / f"rank{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    kind = sys.argv[2] if len(sys.argv) > 2 else None
    if kind == "fsdp2":
        allow_fsdp_on_cpu()
    run_all(Path(sys.argv[1]), kind)
