"""PDU's multiplier: what it does from step to step, and that a resumed run has it."""

import pytest
from builders import arguments, largest_difference, step_logs, trainable
from trainers import METHODS, build


def three_steps(folder, **options):
    options = {"forget": 6, "per_device_train_batch_size": 2, "num_train_epochs": 1, "retain_weight": 2.0} | options
    return build("pdu", folder, **options)


def run(folder, **options):
    trainer = three_steps(folder, **options)
    trainer.train()
    return trainer, step_logs(trainer)


def test_the_multiplier_over_three_steps_by_hand(tmp_path):
    trainer, lines = run(tmp_path, epsilon=3.0, dual_step_size=0.5, forget_weight=0.25)
    weight = 2.0
    assert len(lines) == 3
    for line in lines:
        assert line["retain/weight"] == pytest.approx(weight, rel=1e-6)
        assert line["loss"] == pytest.approx(0.25 * line["forget/loss"] + weight * line["retain/loss"], rel=1e-5)
        weight = max(0.0, weight + 0.5 * (line["retain/loss"] - 3.0))
    assert trainer.multiplier == pytest.approx(weight, rel=1e-6) and weight > 2.5


def test_it_stays_where_it_is_while_it_warms_up(tmp_path):
    trainer, lines = run(tmp_path, epsilon=3.0, dual_step_size=0.5, dual_warmup_steps=2)
    assert [line["retain/weight"] for line in lines] == [2.0, 2.0, 2.0]  # it moves after the third step
    assert trainer.multiplier == pytest.approx(2.0 + 0.5 * (lines[2]["retain/loss"] - 3.0), rel=1e-6)


def test_it_is_never_below_zero(tmp_path):
    trainer, lines = run(tmp_path, epsilon=50.0)
    assert [line["retain/weight"] for line in lines] == [2.0, 0.0, 0.0] and trainer.multiplier == 0.0
    assert lines[1]["loss"] == pytest.approx(lines[1]["forget/loss"], rel=1e-6)


def test_the_whole_step_counts_however_it_is_divided(tmp_path):
    whole, _ = run(tmp_path / "whole", per_device_train_batch_size=6, epsilon=3.0)
    divided, _ = run(tmp_path / "divided", gradient_accumulation_steps=3, epsilon=3.0)
    assert divided.multiplier == pytest.approx(whole.multiplier, rel=1e-5)


def test_a_resumed_run_has_it(tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 2, "epsilon": 3.0}
    whole, lines = run(tmp_path, **saved)
    resumed = three_steps(tmp_path, **saved)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.multiplier == whole.multiplier and step_logs(resumed) == lines
    assert largest_difference(trainable(resumed.model), trainable(whole.model)) == 0.0


def test_settings_that_cannot_be(tmp_path):
    config = METHODS["pdu"].config
    with pytest.raises(ValueError, match="epsilon is missing: the highest retain loss that is allowed"):
        arguments(config, tmp_path)
    with pytest.raises(ValueError, match="retain_loss='none' leaves PDU without its constraint; choose nll or kl"):
        arguments(config, tmp_path, epsilon=1.0, retain_loss="none")
    for name in ("epsilon", "dual_step_size", "dual_warmup_steps"):
        with pytest.raises(ValueError, match=f"{name}=-1"):
            arguments(config, tmp_path, **{"epsilon": 1.0, name: -1})
