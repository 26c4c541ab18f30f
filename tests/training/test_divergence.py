"""A run that diverges ends with the weights before the step that did it."""

import math

import pytest
from builders import largest_difference, lora_config, step_logs
from eight_rows import build
from safetensors.torch import load_file

from llm_unlearn import DivergenceError, GradientAscentConfig, GradientAscentTrainer, UnlearnConfig
from llm_unlearn.training.divergence import nll_bounds


class Exploding(GradientAscentTrainer):
    """Fine for two steps, then a factor that no weight survives."""

    factor = math.nan

    def forget_loss(self, answers):
        return super().forget_loss(answers) * (self.factor if self.state.global_step == 2 else 1.0)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("lora", [True, False])
def test_divergence_stops_the_run_with_the_last_good_weights(lora, factor, tmp_path, monkeypatch):
    monkeypatch.setattr(Exploding, "factor", factor)
    peft_config = lora_config() if lora else None
    trainer = build(Exploding, GradientAscentConfig, tmp_path / "diverged", peft_config=peft_config)
    with pytest.raises(DivergenceError) as caught:
        trainer.train()
    message = str(caught.value)
    assert message.startswith("step 3: the loss diverged (NaN or infinite gradient);")
    assert "lower learning_rate (now 0.01)" in message
    assert message.endswith(f"The weights before that step are in {tmp_path / 'diverged'}")
    assert trainer.state.global_step == 2
    assert (tmp_path / "diverged" / "trainer_state.json").is_file()
    assert (
        not trainer.log_sums.step_nll and not trainer.log_sums.sums
    )  # nothing of that step is in what is trained next

    good = build(GradientAscentTrainer, GradientAscentConfig, tmp_path / "good", peft_config=peft_config, max_steps=2)
    good.train()
    good.save_model()
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    saved, expected = (load_file(tmp_path / folder / name) for folder in ("diverged", "good"))
    assert all(value.isfinite().all() for value in saved.values())
    assert largest_difference(saved, expected) == 0.0


def test_a_learning_rate_that_explodes_is_caught(tmp_path):
    trainer = build(GradientAscentTrainer, GradientAscentConfig, tmp_path, learning_rate=1e25, peft_config=None)
    with pytest.raises(DivergenceError, match=r"now 1e\+25"):
        trainer.train()


def run_until_it_diverges(folder, **changes):
    """(trainer, message) of gradient ascent, step after step away from all that the model knows."""
    trainer = build(GradientAscentTrainer, GradientAscentConfig, folder, num_train_epochs=20, **changes)
    with pytest.raises(DivergenceError) as caught:
        trainer.train()
    return trainer, str(caught.value)


def test_forget_answers_that_are_past_the_bound_end_the_run(tmp_path):
    trainer, message = run_until_it_diverges(tmp_path, retain_loss="none", max_forget_nll=8.0)
    assert "forget answers have a negative log-likelihood of 8." in message
    assert "nats per token, above max_forget_nll (8; a blind guess has 3.95)" in message  # log(52 words)
    losses = [-line["forget/loss"] for line in step_logs(trainer)]  # of the steps that were taken
    assert max(losses) <= 8.0 and trainer.state.global_step == len(losses) > 5
    steps = {"max_steps": trainer.state.global_step, "retain_loss": "none"}
    good = build(GradientAscentTrainer, GradientAscentConfig, tmp_path / "good", **steps)
    good.train()
    good.save_model()
    saved, expected = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "good"))
    assert largest_difference(saved, expected) == 0.0


def test_retain_answers_that_are_lost_end_the_run_and_an_earlier_checkpoint_is_named(tmp_path):
    changes = {"max_retain_nll": 6.0, "retain_weight": 1e-3, "save_strategy": "steps", "save_steps": 1}
    trainer, message = run_until_it_diverges(tmp_path, **changes)
    assert "retain answers have a negative log-likelihood of 6." in message and "above max_retain_nll (6;" in message
    assert message.endswith(f"are in {tmp_path}, those of an earlier step in checkpoint-{trainer.state.global_step}")


def test_bounds_are_multiples_of_a_blind_guess_unless_they_are_given(tmp_path):
    assert nll_bounds(UnlearnConfig(), 1000) == pytest.approx(
        {"forget": 34.5388, "retain": 20.7233, "general": 20.7233}, rel=1e-5
    )
    given = UnlearnConfig(max_forget_nll=math.inf, max_retain_nll=3.0)
    assert nll_bounds(given, 1000) == {"forget": math.inf, "retain": 3.0, "general": 3.0}
    with pytest.raises(ValueError, match=r"max_retain_nll=0 must be above 0 \(inf: no bound\), or null"):
        UnlearnConfig(max_retain_nll=0)
