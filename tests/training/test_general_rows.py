"""General rows in training: a third part of the loss, which protects abilities beyond the retained facts."""

import json

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

from llm_unlearn import (
    GradientAscentConfig,
    GradientAscentTrainer,
    NPOConfig,
    NPOTrainer,
    SAMConfig,
    SAMTrainer,
    SsiuuConfig,
    SsiuuTrainer,
)
from llm_unlearn.data.collators import GENERAL
from llm_unlearn.errors import DivergenceError, InputError
from llm_unlearn.models.scoring import score_answers
from llm_unlearn.training.memory import estimated_memory, reference_words

METHODS = {
    "grad_diff": (GradientAscentTrainer, GradientAscentConfig),
    "npo": (NPOTrainer, NPOConfig),
    "sam": (SAMTrainer, SAMConfig),
    "ssiuu": (SsiuuTrainer, SsiuuConfig),
}


def build(method, folder, *, lora=True, general=5, retain=9, **changes):
    trainer_class, config_class = METHODS[method]
    return trainer_class(
        model=tiny_model(),
        args=arguments(config_class, folder, **changes),
        forget_dataset=qa_rows(7),
        retain_dataset=qa_rows(retain, start=20),
        general_dataset=qa_rows(general, start=10) if general else None,
        processing_class=tiny_tokenizer(),
        peft_config=lora_config() if lora else None,
    )


def nll(trainer, rows):
    scores = score_answers(trainer.model, rows)
    return sum(score.nll for score in scores) / sum(score.length for score in scores)


@pytest.mark.parametrize("retain_loss", ["nll", "none"])
@pytest.mark.parametrize("method", METHODS)
def test_general_rows_are_learned_and_logged(method, retain_loss, tmp_path):
    own = {"regularizer_weight": 0.1} if method == "ssiuu" else {}
    weights = {"general_weight": 5.0, "retain_loss": retain_loss, "forget_weight": 0.1}
    trainer = build(method, tmp_path, num_train_epochs=6, **weights, **own)
    before = nll(trainer, trainer.row_sets["general"])
    trainer.train()
    assert nll(trainer, trainer.row_sets["general"]) < 0.8 * before
    lines = step_logs(trainer)
    assert len(lines) == 12
    forget = "forget/sam_loss" if method == "sam" else "forget/loss"
    for line in lines:
        assert {"general/loss", "general/probability"} <= line.keys()
        total = 0.1 * line[forget] + 5 * line["general/loss"]
        total += line["retain/loss"] if retain_loss == "nll" else 0.0
        total += 0.1 * line["regularizer/loss"] if method == "ssiuu" else 0.0
        assert line["loss"] == pytest.approx(total, rel=1e-4, abs=1e-6)
    assert lines[-1]["general/probability"] > lines[0]["general/probability"]


def test_the_general_loss_is_the_mean_over_the_answer_tokens_of_the_rows_that_were_drawn(tmp_path):
    trainer = build("grad_diff", tmp_path, per_device_train_batch_size=7, num_train_epochs=1)
    (batch,) = trainer.get_train_dataloader()
    drawn = batch["indices"][batch["roles"] == GENERAL].tolist()
    assert set(drawn) == {0, 1, 2, 3, 4} and len(drawn) == 7  # one whole pass, and two rows of the next
    scores = score_answers(trainer.model, trainer.row_sets["general"])
    expected = sum(scores[i].nll for i in drawn) / sum(scores[i].length for i in drawn)
    probability = sum(scores[i].probability for i in drawn) / 7
    trainer.train()
    (line,) = step_logs(trainer)
    assert line["general/loss"] == pytest.approx(expected, rel=1e-5)
    assert line["general/probability"] == pytest.approx(probability, rel=1e-4)


@pytest.mark.parametrize("lora", [True, False])
def test_the_kl_loss_compares_with_the_model_before_unlearning(lora, tmp_path):
    trainer = build("grad_diff", tmp_path, lora=lora, general_loss="kl")
    assert reference_words(trainer) == ("the adapter switched off" if lora else "a frozen copy")
    trainer.train()
    values = [line["general/loss"] for line in step_logs(trainer)]
    assert values[0] == pytest.approx(0.0, abs=1e-6)
    assert min(values[1:]) > 1e-4
    assert step_logs(trainer)[0]["retain/loss"] > 1  # nll still


@pytest.mark.parametrize("method", ["sam", "ssiuu"])
def test_retain_and_general_loss_are_chosen_apart(method, tmp_path):
    for general_loss, retain_loss in (("kl", "nll"), ("nll", "kl"), ("kl", "kl")):
        trainer = build(method, tmp_path, general_loss=general_loss, retain_loss=retain_loss, num_train_epochs=1)
        trainer.train()
        first = step_logs(trainer)[0]
        for name, loss in (("general", general_loss), ("retain", retain_loss)):
            assert (abs(first[f"{name}/loss"]) < 1e-6) is (loss == "kl")


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_of_zero_is_a_run_without_general_rows_bit_for_bit(method, tmp_path):
    runs = []
    for general, weight in ((5, 0.0), (0, 1.0)):
        trainer = build(method, tmp_path, general=general, general_weight=weight, retain_loss="kl")
        assert trainer.row_sets["general"] is None
        batch = next(iter(trainer.get_train_dataloader()))
        assert batch["roles"].tolist() == [0] * 4 + [1] * 4
        trainer.train()
        runs.append((trainable(trainer.model), step_logs(trainer)))
    assert largest_difference(runs[0][0], runs[1][0]) == 0.0
    assert runs[0][1] == runs[1][1]
    assert not [name for name in runs[0][1][0] if name.startswith("general")]


def test_a_run_with_general_rows_draws_the_same_forget_and_retain_rows(tmp_path):
    batches = [next(iter(build("npo", tmp_path, general=n).get_train_dataloader())) for n in (5, 0)]
    assert torch.equal(batches[0]["indices"][:8], batches[1]["indices"])


def test_sam_with_rho_zero_is_its_backbone_with_general_rows_too(tmp_path):
    runs = []
    for method, own in (("sam", {"rho": 0.0}), ("npo", {}), ("sam", {"rho": 1e-9})):
        trainer = build(method, tmp_path, adam_epsilon=1e-4, learning_rate=1e-3, **own)
        trainer.train()
        runs.append(trainable(trainer.model))
    assert largest_difference(runs[0], runs[1]) == 0.0
    assert largest_difference(runs[2], runs[1]) < 1e-5  # in two passes


@pytest.mark.parametrize("changes", [{"general": 4}, {"general": 0}, {"general_weight": 2.0}, {"general_loss": "kl"}])
def test_a_checkpoint_is_of_its_general_rows(changes, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    build("grad_diff", tmp_path, **options).train()
    with pytest.raises(InputError, match=r"another general_dataset|other settings: general_"):
        build("grad_diff", tmp_path, **options | changes).train(resume_from_checkpoint="last")


def test_a_checkpoint_of_a_version_without_general_rows_still_resumes(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "general": 0}
    whole = build("grad_diff", tmp_path, **options)
    whole.train()
    record = tmp_path / "checkpoint-1" / "trained_on.json"
    content = json.loads(record.read_text())
    assert content.pop("general_dataset") is None and not [key for key in content["settings"] if "general" in key]
    record.write_text(json.dumps(content))
    resumed = build("grad_diff", tmp_path, **options, general_weight=7.0)  # which nothing is weighed with
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert largest_difference(trainable(resumed.model), trainable(whole.model)) == 0.0


def test_general_answers_have_the_bound_of_retain_answers(tmp_path):
    trainer = build("grad_diff", tmp_path, retain_loss="none", max_retain_nll=0.5)
    with pytest.raises(DivergenceError, match=r"general answers have .* per token, above max_retain_nll \(0\.5;"):
        trainer.train()


def test_general_rows_count_in_the_memory_of_a_step(tmp_path):
    without, with_general = (estimated_memory(build("grad_diff", tmp_path, general=n)) for n in (0, 5))
    assert with_general["activations"] == 1.5 * without["activations"]


@pytest.mark.parametrize(
    ("general", "message"),
    [
        (qa_rows(3, start=5), "rows of the forget set that are in the general set too: 2 (forget rows 5, 6;"),
        (qa_rows(3).select([]), "general_dataset is empty"),
    ],
)
def test_general_rows_that_cannot_be(general, message, tmp_path):
    with pytest.raises(InputError) as caught:
        NPOTrainer(
            model=tiny_model(),
            args=arguments(NPOConfig, tmp_path),
            forget_dataset=qa_rows(7),
            retain_dataset=qa_rows(9, start=20),
            general_dataset=general,
            processing_class=tiny_tokenizer(),
        )
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general_loss": "none"}, "general_loss='none' is unknown; choose one of nll, kl"),
        ({"general_weight": -1}, "general_weight=-1 must be 0 or more"),
        ({"general_loss": "kl", "logits_chunk_size": 8}, "keeps no logits, which general_loss='kl' compares"),
    ],
)
def test_settings_of_general_rows_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        NPOConfig(**changes)
