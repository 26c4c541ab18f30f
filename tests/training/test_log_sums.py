"""What a log line of steps holds."""

import pytest
from builders import encoded_rows, step_logs
from eight_rows import build, means

from llm_unlearn import NPOConfig, NPOTrainer, SsiuuConfig, SsiuuTrainer
from llm_unlearn.models.scoring import score_answers


def test_logged_names_and_values(memorizer, tmp_path):
    options = {"per_device_train_batch_size": 8, "regularizer_weight": 10.0}
    trainer = build(SsiuuTrainer, SsiuuConfig, tmp_path, memorizer, **options)
    trainer.train()
    first = step_logs(trainer)[0]
    ours = {name: first[name] for name in first if "/" in name}
    assert set(ours) == {
        "forget/loss",
        "forget/probability",
        "influence/negative",
        "influence/positive",
        "regularizer/gradient_ratio",
        "regularizer/loss",
        "regularizer/weight",
        "retain/loss",
        "retain/probability",
    }
    # One batch holds all rows, so the first line is about the model as it was given.
    assert ours["forget/probability"] == pytest.approx(means(memorizer, encoded_rows(8))[1], abs=1e-4)
    retain = score_answers(memorizer, encoded_rows(8, 20))
    assert ours["retain/probability"] == pytest.approx(sum(s.probability for s in retain) / 8, abs=1e-4)
    assert ours["retain/loss"] == pytest.approx(sum(s.nll for s in retain) / sum(s.length for s in retain), rel=1e-3)
    assert ours["influence/negative"] < 0 < ours["influence/positive"]
    assert ours["regularizer/gradient_ratio"] > 0


def test_log_lines_are_means_over_their_steps(memorizer, tmp_path):
    lines = []
    for every in (1, 2):
        trainer = build(SsiuuTrainer, SsiuuConfig, tmp_path, memorizer, logging_steps=every, regularizer_weight=10.0)
        trainer.train()
        lines.append(step_logs(trainer))
    single, double = lines
    assert (len(single), len(double)) == (4, 2)
    for name in ("loss", "forget/loss", "retain/probability", "regularizer/loss"):
        pairs = [(single[i][name] + single[i + 1][name]) / 2 for i in (0, 2)]
        assert [line[name] for line in double] == pytest.approx(pairs, rel=1e-5)
    for name in ("influence/negative", "regularizer/gradient_ratio"):  # of the last step of a line
        assert [line[name] for line in double] == [pytest.approx(single[i][name], rel=1e-5) for i in (1, 3)]


def test_gradient_ratio_is_that_of_the_weighted_parts(memorizer, tmp_path):
    ratios = []
    for changes in ({}, {"regularizer_weight": 20.0}, {"forget_weight": 4.0}):
        changes = {"regularizer_weight": 10.0} | changes
        trainer = build(SsiuuTrainer, SsiuuConfig, tmp_path, memorizer, max_steps=1, **changes)
        trainer.train()
        ratios.append(step_logs(trainer)[0]["regularizer/gradient_ratio"])
    assert ratios[1] == pytest.approx(2 * ratios[0], rel=1e-4)
    assert ratios[2] == pytest.approx(ratios[0] / 4, rel=1e-4)


def test_the_regularizer_alone_speaks_for_the_answer(tmp_path):
    """It weakens what suppresses the answer, so with g constant each step of it raises the answer's probability."""
    alone = {"forget_weight": 0.0, "retain_weight": 0.0, "regularizer_weight": 1.0}
    changes = {"per_device_train_batch_size": 8, "num_train_epochs": 6, "learning_rate": 1e-3} | alone
    trainer = build(SsiuuTrainer, SsiuuConfig, tmp_path, peft_config=None, **changes)
    trainer.train()
    probabilities = [line["forget/probability"] for line in step_logs(trainer)]
    assert probabilities == sorted(probabilities)
    assert probabilities[-1] > 1.1 * probabilities[0]


def test_ssiuu_on_gradient_ascent_needs_no_reference(memorizer, tmp_path):
    trainer = build(SsiuuTrainer, SsiuuConfig, tmp_path, memorizer, backbone="gradient_ascent", max_steps=1)
    trainer.train()
    assert trainer.reference._logps is None
    assert step_logs(trainer)[0]["forget/loss"] < 0


def test_without_a_retain_loss_there_is_no_retain_part(tmp_path):
    trainer = build(NPOTrainer, NPOConfig, tmp_path, retain_loss="none", retain_dataset=None)
    trainer.train()
    line = step_logs(trainer)[0]
    assert {name for name in line if "/" in name} == {"forget/loss", "forget/probability"}
    assert line["loss"] == pytest.approx(line["forget/loss"], rel=1e-5)
