"""Checkpoints: complete or absent, with the method's own state, and refused where they do not belong."""

import errno
import json
import shutil

import pytest
import torch
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

from llm_unlearn import InputError, NPOConfig, NPOTrainer, SsiuuConfig, SsiuuTrainer
from llm_unlearn.checkpoints import last_checkpoint
from llm_unlearn.errors import StorageError


def build(folder, trainer_class=SsiuuTrainer, start=0, **changes):
    config = SsiuuConfig if trainer_class is SsiuuTrainer else NPOConfig
    options = {"num_train_epochs": 6, "save_strategy": "steps", "save_steps": 2} | changes
    return trainer_class(
        model=tiny_model(),
        args=arguments(config, folder, per_device_train_batch_size=3, **options),
        forget_dataset=qa_rows(6, start=start),
        retain_dataset=qa_rows(6, start=start + 20),
        processing_class=tiny_tokenizer(),
        peft_config=lora_config(),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "published", "reference": "previous", "regularizer_weight": 1e3},
        {"variant": "published", "reference": "original", "regularizer_weight": 1e3},
        {"regularizer_weight": "auto", "regularizer_ratio": 0.5},
    ],
)
def test_what_ssiuu_carries_from_step_to_step_is_in_the_checkpoint(options, tmp_path):
    if options.get("variant") == "published":
        options = options | {"influence_of": "log_probability", "learning_rate": 1e-2}
    whole = build(tmp_path, **options)
    whole.train()
    assert whole.state.global_step == 12
    resumed = build(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert largest_difference(trainable(resumed.model), trainable(whole.model)) == 0.0
    assert step_logs(resumed) == step_logs(whole)

    (tmp_path / "checkpoint-6" / "method_state.safetensors").unlink()
    forgetful = build(tmp_path, **options)
    forgetful.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert largest_difference(trainable(forgetful.model), trainable(whole.model)) > 0.0  # so the state mattered


def test_last_is_the_newest_complete_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path) is None
    trainer = build(tmp_path, NPOTrainer)
    trainer.train(resume_from_checkpoint="last")  # there is none: from the beginning
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-12"
    assert not (tmp_path / "unfinished-checkpoint").exists()
    (tmp_path / "checkpoint-12" / "trainer_state.json").unlink()  # as other trainers leave it when they are killed
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    resumed = build(tmp_path, NPOTrainer)
    resumed.train(resume_from_checkpoint="last")
    assert resumed.state.log_history[-1]["step"] == 12
    assert largest_difference(trainable(resumed.model), trainable(trainer.model)) == 0.0
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-12"  # the half one was replaced


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    trainer = build(tmp_path, NPOTrainer, save_total_limit=1)

    def full(folder):
        if trainer.state.global_step == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return NPOTrainer._save_rng_state(trainer, folder)

    monkeypatch.setattr(trainer, "_save_rng_state", full)
    with pytest.raises(
        StorageError, match="checkpoint-6 could not be written: No space left on device; checkpoint-4 is the last comp"
    ):
        trainer.train()
    assert [folder.name for folder in tmp_path.glob("*checkpoint*")] == ["checkpoint-4"]
    whole = build(tmp_path / "whole", NPOTrainer)
    whole.train()
    resumed = build(tmp_path, NPOTrainer, save_total_limit=1)
    resumed.train(resume_from_checkpoint="last")
    assert largest_difference(trainable(resumed.model), trainable(whole.model)) == 0.0
    assert [folder.name for folder in tmp_path.glob("*checkpoint*")] == ["checkpoint-12"]


def test_a_checkpoint_half_written_by_a_killed_process_is_in_nobodys_way(tmp_path, monkeypatch):
    trainer = build(tmp_path, NPOTrainer)

    def killed(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_save_rng_state", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert (tmp_path / "unfinished-checkpoint" / "checkpoint-2" / "adapter_model.safetensors").is_file()
    assert last_checkpoint(tmp_path) is None
    again = build(tmp_path, NPOTrainer)
    again.train(resume_from_checkpoint=True)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-12"
    assert not (tmp_path / "unfinished-checkpoint").exists()


def test_checkpoints_that_do_not_belong_here_are_refused(tmp_path):
    build(tmp_path, NPOTrainer, max_steps=2).train()
    checkpoint = str(tmp_path / "checkpoint-2")
    with pytest.raises(InputError, match=r"checkpoint-2 was trained with another method \(npo, now ssiuu\)"):
        build(tmp_path).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(InputError, match="checkpoint-2 was trained with another forget_dataset; give"):
        build(tmp_path, NPOTrainer, start=1).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(
        InputError, match=r"checkpoint-7 holds no complete checkpoint .*; the last complete one is .*-2"
    ):
        build(tmp_path, NPOTrainer).train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    shutil.rmtree(checkpoint)
    with pytest.raises(InputError, match=r"\(no trainer_state.json\). `last` takes the newest"):
        build(tmp_path, NPOTrainer).train(resume_from_checkpoint=checkpoint)


def test_the_best_checkpoint_is_known_by_its_final_name(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_forget_probability"}
    trainer = build(tmp_path, NPOTrainer, greater_is_better=False, load_best_model_at_end=True, **options)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best == str(tmp_path / f"checkpoint-{trainer.state.best_global_step}")
    state = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == best
    assert torch.isfinite(torch.stack([value.sum() for value in trainable(trainer.model).values()])).all()
