"""The task vector: what training changed is taken the other way, exactly, and no further than is asked for."""

import copy

import pytest
import torch
from builders import arguments, lora_config, qa_rows, tiny_model, tiny_tokenizer, trainable, with_trained_adapter
from trainers import METHODS, build

from llm_unlearn import InputError, UnlearnTrainer
from llm_unlearn.models.scoring import mean_scores, score_answers

RECORD = METHODS["task_vector"]


class TunedFurther(UnlearnTrainer):
    """The plain training that a task vector begins with."""

    def forget_loss(self, answers):
        return -answers.forget.token_logps


def tuned(folder, **options):
    trainer = build(TunedFurther, folder, forget=5, retain_loss="none", general_weight=0.0, **options)
    before = trainable(trainer.model)
    trainer.train()
    return before, trainable(trainer.model)


def test_full_finetuning_is_negated_to_the_last_bit(tmp_path):
    before, after = tuned(tmp_path / "tuned", lora=False)
    trainer = build("task_vector", tmp_path / "out", forget=5, lora=False, scaling_coefficient=1.5)
    trainer.train()
    for name, value in trainable(trainer.model).items():
        assert torch.equal(value, before[name] - 1.5 * (after[name] - before[name])), name
    assert trainer.stopped_by is None and trainer.state.log_history[-1]["scaling_coefficient"] == 1.5


def merged(trainer):
    return copy.deepcopy(trainer.model).merge_and_unload().state_dict()


@pytest.mark.parametrize("changes", [{}, {"modules_to_save": ["lm_head"]}, {"bias": "lora_only"}, {"use_rslora": True}])
def test_an_adapter_s_whole_change_is_negated(changes, tmp_path):
    """Also what is trained beside its two matrices; GPT-2 has biases."""

    def one(trainer_class, config_class, folder, **options):
        trainer = trainer_class(
            model=tiny_model("gpt2"),
            args=arguments(config_class, tmp_path / folder, retain_loss="none", general_weight=0.0, **options),
            forget_dataset=qa_rows(5),
            processing_class=tiny_tokenizer(),
            peft_config=lora_config(target_modules=["c_attn", "c_proj"], **changes),
        )
        start = merged(trainer)
        trainer.train()
        return start, merged(trainer)

    start, plain = one(TunedFurther, TunedFurther.config_class, "tuned")
    same_start, negated = one(RECORD.trainer, RECORD.config, "out", scaling_coefficient=2.5)
    changed = set()
    for name, value in negated.items():
        assert torch.equal(start[name], same_start[name])
        torch.testing.assert_close(value - start[name], -2.5 * (plain[name] - start[name]), atol=2e-6, rtol=1e-4)
        changed |= {name} if not torch.equal(value, start[name]) else set()
    assert any("c_attn.weight" in name for name in changed)
    assert any("lm_head" in name for name in changed) == ("modules_to_save" in changes)
    assert any("c_attn.bias" in name for name in changed) == ("bias" in changes)


def probabilities_by_tenth(folder, coefficient):
    before, after = tuned(folder, lora=False)
    model, found = tiny_model(), []
    rows = build(TunedFurther, folder, forget=5, lora=False).forget_rows
    for tenths in range(11):
        for name, parameter in model.named_parameters():
            parameter.data = before[name] - coefficient * tenths / 10 * (after[name] - before[name])
        found.append(mean_scores(score_answers(model, rows))["probability"])
    return found


def test_thresholds_choose_the_fewest_tenths_that_meet_them(tmp_path):
    by_tenth = probabilities_by_tenth(tmp_path / "tuned", coefficient=1.0)
    assert by_tenth[4] < by_tenth[3] < by_tenth[0]
    limit = (by_tenth[3] + by_tenth[4]) / 2
    options = {"forget": 5, "lora": False}
    trainer = build("task_vector", tmp_path / "out", stop_at_forget_probability=limit, **options)
    trainer.train()
    assert trainer.state.log_history[-1]["scaling_coefficient"] == pytest.approx(0.4)
    assert trainer.stopped_by == f"forget probability {by_tenth[4]:.3f} <= {limit:g} (alpha 0.4)"
    nothing = build(
        "task_vector", tmp_path / "never", stop_at_forget_exact_match=0.0, stop_at_forget_probability=0.0, **options
    )
    nothing.train()
    assert nothing.stopped_by is None and nothing.state.log_history[-1]["scaling_coefficient"] == 1.0


def test_adapters_whose_change_cannot_be_negated(tmp_path):
    words = r"a task vector needs a fresh LoRA adapter \(no DoRA\), or --full_finetuning"
    with pytest.raises(InputError, match=words):
        build("task_vector", tmp_path, model=with_trained_adapter(tiny_model()), lora=False)
    with pytest.raises(InputError, match=words):
        RECORD.trainer(
            model=tiny_model(),
            args=arguments(RECORD.config, tmp_path),
            forget_dataset=qa_rows(3),
            processing_class=tiny_tokenizer(),
            peft_config=lora_config(use_dora=True),
        )


def test_settings_that_cannot_be(tmp_path):
    words = "retain_loss='nll', general_weight=0: all that is trained is taken back afterwards, so a task vector is of"
    with pytest.raises(ValueError, match=words):
        arguments(RECORD.config, tmp_path, retain_loss="nll")
    with pytest.raises(ValueError, match="retain_loss='none', general_weight=2: all that is trained is taken back"):
        arguments(RECORD.config, tmp_path, general_weight=2.0)
    with pytest.raises(ValueError, match="scaling_coefficient=0"):
        arguments(RECORD.config, tmp_path, scaling_coefficient=0.0)


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("task_vector", "its parameters are moved after training, whole"),
        ("whp", "its reinforced model is trained whole"),
    ],
)
def test_shards_of_a_model_are_refused(method, why, tmp_path):
    with pytest.raises(ValueError, match=f"FSDP: {why}; start with plain data parallelism"):
        arguments(METHODS[method].config, tmp_path, fsdp=True, fsdp_config={"version": 2})
