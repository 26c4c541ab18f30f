"""Checkpoints that one of two processes cannot write or read; started by test_failing_checkpoints.py.

    torchrun --nproc_per_node 2 failing_checkpoints.py FOLDER

Every process writes FOLDER/rank{r}.json: for each case, how a recipe would have ended on it: [exit code, words].
"""

import contextlib
import errno
import io
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from accelerate.utils import save_fsdp_model
from builders import arguments, lora_config, qa_rows, tiny_model, tiny_tokenizer
from sharded_on_cpu import allow_fsdp_on_cpu
from two_process_runs import FSDP2

import llm_unlearn.arguments.parsing
import llm_unlearn.training.checkpoints
from llm_unlearn import NPOConfig, NPOTrainer
from llm_unlearn.arguments.parsing import run_main

RANK = int(os.environ["RANK"])
CASES = {  # what fails, on which process: in the first checkpoint, or, of the record, when it is read
    "weights": ("_save", 0),
    "completion": ("_complete", 0),
    "random state": ("_save_rng_state", 1),
    "record": (None, 0),
    "sharded weights": ("save_fsdp_model", 0),
}


def build(folder: Path, max_steps: int = 4, **options) -> NPOTrainer:
    return NPOTrainer(
        model=tiny_model(),
        args=arguments(
            NPOConfig,
            folder,
            max_steps=max_steps,
            save_strategy="steps",
            save_steps=2,
            # then transformers has the processes meet between the weights and the rest
            eval_strategy="steps",
            eval_steps=1,
            metric_for_best_model="forget_probability",
            greater_is_better=False,
            **options,
        ),
        forget_dataset=qa_rows(6),
        retain_dataset=qa_rows(6, start=20),
        processing_class=tiny_tokenizer(),
        peft_config=lora_config(),
    )


def full(*arguments, **keywords):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_when_gathered(*arguments, **keywords):
    save_fsdp_model(*arguments, **keywords)
    full()


def ending(trainer: NPOTrainer, **keywords) -> list:
    said, code = io.StringIO(), 0
    try:
        with contextlib.redirect_stderr(said):
            run_main(lambda: trainer.train(**keywords))
    except SystemExit as stopped:
        code = stopped.code
    return [code, said.getvalue().strip().splitlines()[-1] if code else ""]


def main(folder: Path) -> None:
    llm_unlearn.arguments.parsing.SILENCE = 0.0  # nobody waits for the first process to say it
    report = {}
    for name, (method, rank) in CASES.items():
        is_sharded = name == "sharded weights"  # the last one: what it allows stays allowed
        if is_sharded:
            allow_fsdp_on_cpu()
        trainer = build(folder / name, **(FSDP2 if is_sharded else {}))
        assert trainer.is_fsdp_enabled == is_sharded
        if method and rank == RANK:
            own = trainer.checkpoints if hasattr(trainer.checkpoints, method) else trainer
            place = llm_unlearn.training.checkpoints if is_sharded else own
            setattr(place, method, full_when_gathered if is_sharded else full)
        report[name] = ending(trainer)
        if method is None:
            if RANK == 0:
                (folder / name / "checkpoint-4" / "trained_on.json").write_text("{")
            trainer.accelerator.wait_for_everyone()
            report["damaged"] = ending(build(folder / name, max_steps=6), resume_from_checkpoint="last")
    (folder / f"rank{RANK}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
