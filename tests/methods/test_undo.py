"""UNDO: what is damaged, what is learned again, and from whom."""

import copy

import pytest
import torch
from builders import arguments, step_logs, tiny_model, with_trained_adapter
from torch.nn import functional as F
from trainers import METHODS, build

from llm_unlearn import InputError
from llm_unlearn.methods.damage import damage
from llm_unlearn.models.loading import load_model


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_teacher_is_damaged_and_what_it_says_is_learned(tmp_path):
    """The loss of the first step is the divergence of the damaged teacher from the teacher, row by row."""
    teacher = tiny_model(seed=7)
    teacher.save_pretrained(tmp_path / "teacher")
    trainer = build(
        *("undo", tmp_path / "out"),
        lora=False,
        teacher=str(tmp_path / "teacher"),
        damage=0.5,
        learning_rate=0.0,
        max_steps=1,
        retain_weight=3.0,
        per_device_train_batch_size=11,
    )
    assert same(weights(trainer.model), weights(teacher))
    kept = [trainer.row_sets["retain"][index] for _, index, _ in trainer._get_train_sampler()]
    trainer.train()
    student = copy.deepcopy(teacher)
    damage(student, 0.5, trainer.args.seed)
    assert same(weights(trainer.model), weights(student)) and same(weights(trainer.reference.model), weights(teacher))
    divergences = []
    for row in kept:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            said, expected = (model(ids).logits[0].log_softmax(-1) for model in (student, teacher))
        where = torch.nonzero(labels != -100).flatten() - 1
        each = F.kl_div(said[where], expected[where], reduction="none", log_target=True).sum(-1)
        divergences += each.tolist()
    expected = 3 * sum(divergences) / len(divergences)
    assert step_logs(trainer)[0]["loss"] == pytest.approx(expected, rel=1e-4) and expected > 0.1


def test_an_adapter_of_the_model_is_a_teacher(tmp_path):
    """Its change is part of the teacher's weights; without a teacher, the model is its own."""
    tiny_model().save_pretrained(tmp_path / "base")
    adapter = with_trained_adapter(load_model(str(tmp_path / "base")))
    adapter.save_pretrained(tmp_path / "adapter")
    trainer = build("undo", tmp_path / "out", lora=False, model=tiny_model(), teacher=str(tmp_path / "adapter"))
    assert same(weights(trainer.model), weights(adapter.merge_and_unload()))
    assert not same(weights(trainer.model), weights(tiny_model()))
    own = build("undo", tmp_path / "own", lora=False, model=tiny_model())
    assert same(weights(own.model), weights(tiny_model()))


def test_resuming_neither_damages_again_nor_asks_another_teacher(tmp_path):
    tiny_model(seed=7).save_pretrained(tmp_path / "teacher")
    options = {"teacher": str(tmp_path / "teacher"), "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = build("undo", tmp_path / "whole", lora=False, **options)
    whole.train()
    resumed = build("undo", tmp_path / "whole", lora=False, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert same(weights(whole.model), weights(resumed.model))


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(InputError, match="damage changes weights that an adapter leaves as they are: give --full_fine"):
        build("undo", tmp_path, lora=True)
    tiny_model(intermediate_size=40).save_pretrained(tmp_path / "narrow")
    with pytest.raises(InputError, match=r"teacher='.*narrow': .* has the shape .*; give a checkpoint of the same mod"):
        build("undo", tmp_path / "out", lora=False, teacher=str(tmp_path / "narrow"))
    with pytest.raises(ValueError, match="retain_loss='none' leaves nothing to train on"):
        arguments(METHODS["undo"].config, tmp_path, retain_loss="none")
    with pytest.raises(ValueError, match=r"damage=1\.5 must be"):
        arguments(METHODS["undo"].config, tmp_path, damage=1.5)
