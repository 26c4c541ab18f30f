"""Checkpoints: complete or absent, with the method's own state, and refused where they do not belong."""

import errno
import json
import resource
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

from llm_unlearn import IDKTrainer, InputError, NPOTrainer, SsiuuTrainer
from llm_unlearn.errors import StorageError
from llm_unlearn.methods.ssiuu_published import PublishedSsiuuTrainer
from llm_unlearn.training.checkpoint_folders import last_checkpoint


def build(folder, trainer_class=SsiuuTrainer, start=0, retain=6, **changes):
    config = trainer_class.config_class
    model, peft_config = changes.pop("model", None), changes.pop("peft_config", lora_config())
    options = {"num_train_epochs": 6, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 3}
    return trainer_class(
        model=model or tiny_model(),
        args=arguments(config, folder, **options | changes),
        forget_dataset=qa_rows(6, start=start),
        retain_dataset=qa_rows(retain, start=start + 20),
        processing_class=tiny_tokenizer(),
        peft_config=peft_config,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"reference": "previous", "regularizer_weight": 1e3},
        {"reference": "original", "regularizer_weight": 1e3},
        {"regularizer_weight": "auto", "regularizer_ratio": 0.5},
    ],
)
def test_what_ssiuu_carries_from_step_to_step_is_in_the_checkpoint(options, tmp_path, monkeypatch):
    if "reference" in options:
        published = {"trainer_class": PublishedSsiuuTrainer, "influence_of": "log_probability", "learning_rate": 1e-2}
        options = options | published
    whole = build(tmp_path, **options)
    whole.train()
    assert whole.state.global_step == 12
    resumed = build(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert largest_difference(trainable(resumed.model), trainable(whole.model)) == 0.0
    assert step_logs(resumed) == step_logs(whole)

    forgetful = build(tmp_path, **options)
    monkeypatch.setattr(forgetful, "load_method_state", lambda state: None)
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


@pytest.mark.parametrize(("largest", "words"), [(10_000, "File too large"), (30_000, "inline_container")])
def test_files_that_cannot_be_written_to_their_ends(largest, words, tmp_path, monkeypatch):
    """The weights, and, in a larger place, the optimizer's state: no library names the same error."""
    trainer = build(tmp_path, NPOTrainer)

    def limited(model, trial):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
        try:
            NPOTrainer._save_checkpoint(trainer, model, trial)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(trainer, "_save_checkpoint", limited)
    with pytest.raises(StorageError, match=f"checkpoint-2 could not be written: .*{words}.*; there is no earlier one"):
        trainer.train()
    assert not [*tmp_path.glob("*checkpoint*")]


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


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_run_resumed_between_two_log_lines_logs_the_same(accumulated, tmp_path):
    options = {"logging_steps": 4, "num_train_epochs": 4 * accumulated, "gradient_accumulation_steps": accumulated}
    whole = build(tmp_path, **options)
    whole.train()
    assert [line["step"] for line in step_logs(whole)] == [4, 8]
    for step in (2, 6):
        resumed = build(tmp_path, **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert step_logs(resumed) == step_logs(whole)
    assert (tmp_path / "checkpoint-2" / "log_sums.safetensors").is_file()
    assert not (tmp_path / "checkpoint-4" / "log_sums.safetensors").exists()  # a log line has just been written


def test_sums_of_more_processes_are_taken_over_whole(tmp_path):
    trainer = build(tmp_path, NPOTrainer)
    trainer.log_sums.load({"loss: shares": torch.tensor([1.5, 2.0]), "loss: steps": torch.tensor([2, 3])})
    trainer.log({"loss": 0.0})
    assert trainer.state.log_history[-1]["loss"] == 1.75


def test_last_is_what_was_saved_last_whatever_its_step_and_its_file_times(tmp_path):
    longer = build(tmp_path / "longer", NPOTrainer, save_steps=6)
    longer.train()
    newer = build(tmp_path / "newer", NPOTrainer, save_steps=4, max_steps=4)
    newer.train()
    shutil.copytree(tmp_path / "newer" / "checkpoint-4", tmp_path / "both" / "checkpoint-4")
    shutil.copytree(tmp_path / "longer" / "checkpoint-12", tmp_path / "both" / "checkpoint-12")  # with a newer time
    assert last_checkpoint(tmp_path / "both") == tmp_path / "both" / "checkpoint-4"
    (tmp_path / "both" / "checkpoint-12" / "trained_on.json").write_text("{")  # nobody knows: to be refused
    assert last_checkpoint(tmp_path / "both") == tmp_path / "both" / "checkpoint-12"


def test_a_run_resumed_from_an_earlier_step_keeps_what_it_saves(tmp_path):
    build(tmp_path, NPOTrainer, save_steps=4).train()
    resumed = build(tmp_path, NPOTrainer, save_steps=6, max_steps=10, save_total_limit=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert sorted(folder.name for folder in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-6"]


def test_checkpoints_of_another_run_are_never_replaced(tmp_path):
    build(tmp_path / "one", NPOTrainer, max_steps=2).train()
    build(tmp_path / "two", NPOTrainer, max_steps=2).train()
    words = r"one' holds checkpoints of another run, the last of them checkpoint-2: go on from it with --resume_from"
    for resumed in (None, str(tmp_path / "two" / "checkpoint-2")):
        with pytest.raises(InputError, match=words):
            build(tmp_path / "one", NPOTrainer).train(resume_from_checkpoint=resumed)
    build(tmp_path / "one", NPOTrainer, max_steps=2, save_strategy="no").train()  # in nobody's way


def test_checkpoints_that_do_not_belong_here_are_refused(tmp_path):
    build(tmp_path, NPOTrainer, max_steps=2).train()
    checkpoint = str(tmp_path / "checkpoint-2")
    with pytest.raises(InputError, match=r"checkpoint-2 was trained with another method \(npo, now ssiuu\)"):
        build(tmp_path).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(InputError, match="checkpoint-2 was trained with another forget_dataset; give"):
        build(tmp_path, NPOTrainer, start=1).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(InputError, match="checkpoint-2 was trained with another retain_dataset; give"):
        build(tmp_path, NPOTrainer, retain=5).train(resume_from_checkpoint=checkpoint)
    for other in (tiny_model(seed=1), tiny_model(hidden_size=64), tiny_model().bfloat16()):
        with pytest.raises(InputError, match="checkpoint-2 was trained with another model; give"):
            build(tmp_path, NPOTrainer, model=other).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(
        InputError, match=r"checkpoint-7 holds no complete checkpoint .*; the last complete one is .*-2"
    ):
        build(tmp_path, NPOTrainer).train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    shutil.rmtree(checkpoint)
    with pytest.raises(InputError, match=r"\(no trainer_state.json\). `last` takes the newest"):
        build(tmp_path, NPOTrainer).train(resume_from_checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 1e-3, "seed": 4}, r"learning_rate=0.01 \(now 0.001\), seed=3 \(now 4\); give"),
        ({"per_device_train_batch_size": 2}, r"per_device_train_batch_size=3 \(now 2\)"),
        ({"gradient_accumulation_steps": 2}, r"gradient_accumulation_steps=1 \(now 2\)"),
        ({"retain_weight": 0.5}, r"retain_weight=1.0 \(now 0.5\)"),
        ({"beta": 0.5}, r"beta=0.1 \(now 0.5\)"),
        ({"lr_scheduler_type": "linear"}, r"lr_scheduler_type=constant \(now linear\)"),
        ({"bf16": True}, r"bf16=False \(now True\)"),
        ({"optim": "sgd"}, r"optim=adamw_\w+ \(now sgd\), optimizer=AdamW \(now SGD\)"),
        (
            {"peft_config": lora_config(r=8, lora_alpha=16)},
            r"peft_config.lora_alpha=8 \(now 16\), peft_config.r=4 \(now",
        ),
        (
            {"peft_config": lora_config(target_modules=["q_proj"])},
            r"peft_config.target_modules=.* \(now \['q_proj'\]\)",
        ),
        ({"peft_config": None}, r"peft_config=LoraConfig \(now None\)"),
    ],
)
def test_settings_of_a_step_stay_as_they_were(changes, words, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "two-steps"
    if not folder.exists():
        build(folder, NPOTrainer, max_steps=2).train()
    with pytest.raises(InputError, match=f"checkpoint-2 was trained with .*{words}"):
        build(folder, NPOTrainer, **changes).train(resume_from_checkpoint="last")


def test_when_a_run_ends_and_what_it_writes_may_change(tmp_path):
    build(tmp_path, NPOTrainer, max_steps=2).train()
    changes = {"max_steps": 8, "logging_steps": 3, "save_steps": 5, "stop_at_forget_probability": 0.0}
    resumed = build(tmp_path, NPOTrainer, **changes, max_forget_nll=100.0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [line["step"] for line in step_logs(resumed)] == [1, 2, 3, 6]
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-8"
    assert (tmp_path / "checkpoint-5").is_dir()


def test_the_same_rows_a_step_divided_otherwise_are_said_and_go_on(tmp_path, caplog):
    build(tmp_path, NPOTrainer, max_steps=2).train()
    resumed = build(tmp_path, NPOTrainer, per_device_train_batch_size=1, gradient_accumulation_steps=3)
    resumed.train(resume_from_checkpoint="last")
    assert resumed.state.global_step == 12
    said = "per_device_train_batch_size=3 (now 1), gradient_accumulation_steps=1 (now 3): the same rows in each step"
    assert said in caplog.text


@pytest.mark.parametrize("damage", ["cut off", "one bit", "gone"])
def test_of_a_damaged_checkpoint_nothing_is_loaded(damage, tmp_path):
    options = {"logging_steps": 4, "regularizer_weight": "auto"}
    build(tmp_path, max_steps=2, **options).train()
    checkpoint = tmp_path / "checkpoint-2"
    trainer = build(tmp_path, **options)
    before = trainable(trainer.model)
    names = {file.name for file in checkpoint.iterdir()} - {"trained_on.json", "README.md"}  # which is for people
    assert names >= {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    assert names >= {"method_state.safetensors", "log_sums.safetensors"}
    for name in names - ({"trainer_state.json"} if damage == "gone" else set()):  # without it, there is no checkpoint
        file = checkpoint / name
        content = file.read_bytes()
        middle = len(content) // 2
        if damage == "gone":
            file.unlink()
        else:
            changed = bytes([content[middle] ^ 1]) + content[middle + 1 :]
            file.write_bytes(content[:middle] + (changed if damage == "one bit" else b""))
        with pytest.raises(InputError, match=f"checkpoint-2/{name} is damaged .*copy the checkpoint again, or take an"):
            trainer.train(resume_from_checkpoint="last")
        file.write_bytes(content)
    assert largest_difference(trainable(trainer.model), before) == 0.0
    assert trainer.method_state() == {} and trainer.state.global_step == 0
    trainer.train(resume_from_checkpoint="last")
    assert trainer.state.global_step == 12


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"method": "npo"}', None])
def test_a_damaged_record_is_refused(content, tmp_path):
    build(tmp_path, NPOTrainer, max_steps=2).train()
    record = tmp_path / "checkpoint-2" / "trained_on.json"
    record.unlink() if content is None else record.write_text(content)
    words = "checkpoint-2 has no trained_on.json" if content is None else "trained_on.json is damaged"
    with pytest.raises(InputError, match=words):
        build(tmp_path, NPOTrainer).train(resume_from_checkpoint="last")


def test_other_alternates_are_other_rows(tmp_path):
    refusals = tmp_path / "refusals.txt"
    refusals.write_text("a red cat in Rome\n")
    options = {"replace_with": str(refusals), "max_steps": 2}
    build(tmp_path / "out", IDKTrainer, **options).train()
    refusals.write_text("a red cat in Oslo\n")
    with pytest.raises(InputError, match="checkpoint-2 was trained with other alternates; give"):
        build(tmp_path / "out", IDKTrainer, **options).train(resume_from_checkpoint="last")


def test_weights_alone_are_no_state_to_go_on_from(tmp_path):
    build(tmp_path, NPOTrainer, max_steps=2, save_only_model=True).train()
    with pytest.raises(InputError, match="checkpoint-2 was saved with save_only_model, without the optimizer's state"):
        build(tmp_path, NPOTrainer).train(resume_from_checkpoint="last")


def test_the_best_checkpoint_is_known_by_its_final_name(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_forget_probability"}
    trainer = build(tmp_path, NPOTrainer, load_best_model_at_end=True, **options)
    assert trainer.args.greater_is_better is False  # of what is to be forgotten the least is best
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best == str(tmp_path / f"checkpoint-{trainer.state.best_global_step}")
    state = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == best
    assert torch.isfinite(torch.stack([value.sum() for value in trainable(trainer.model).values()])).all()
