"""The training loop: what it changes, its references, accumulation, resume, and custom methods."""

import copy
import math
from operator import truediv

import pytest
import torch
from builders import (
    arguments,
    largest_difference,
    lora_config,
    mixed_batch,
    qa_rows,
    step_logs,
    tiny_model,
    tiny_tokenizer,
    trainable,
    with_trained_adapter,
)
from trainers import build
from transformers import set_seed

from llm_unlearn import (
    InputError,
    NPOConfig,
    NPOTrainer,
    SsiuuConfig,
    SsiuuTrainer,
    UnlearnTrainer,
)
from llm_unlearn.models.answers import forward_answers
from llm_unlearn.models.loading import decoder_layers
from llm_unlearn.models.scoring import score_answers
from llm_unlearn.training import reference_policy
from llm_unlearn.training.losses import keeping_loss
from llm_unlearn.training.memory import reference_words

AT_REFERENCE = 2 / 0.1 * math.log(2)  # NPO's loss of an answer at the reference, beta 0.1


def logits(model):
    with torch.no_grad():
        return model(input_ids=mixed_batch()["input_ids"]).logits


# ---- what training changes -------------------------------------------------------------------------------------------


def test_full_finetuning_changes_every_weight(tmp_path):
    trainer = build("npo", tmp_path, lora=False)
    before = trainable(trainer.model)
    assert set(before) == {name for name, _ in trainer.model.named_parameters()}
    trainer.train()
    after = trainable(trainer.model)
    assert [name for name in before if torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("method", ["gradient_ascent", "npo", "ssiuu"])
def test_unlearning_lowers_forget_probability_and_keeps_retain_probability(method, tmp_path):
    own = {"regularizer_weight": 0.1} if method == "ssiuu" else {}
    own |= {"forget_loss_unit": "answer"} if method in ("npo", "ssiuu") else {}
    trainer = build(method, tmp_path, lora=False, num_train_epochs=8, learning_rate=2e-3, retain_weight=3.0, **own)
    rows = trainer.forget_rows, trainer.row_sets["retain"]
    before = [sum(s.nll for s in score_answers(trainer.model, part)) for part in rows]
    trainer.train()
    after = [sum(s.nll for s in score_answers(trainer.model, part)) for part in rows]
    assert after[0] > before[0] * 1.2
    assert after[1] < before[1] * 0.8


@pytest.mark.parametrize("method", ["dpo", "idk"])
def test_other_answers_become_likelier_than_they_were(method, tmp_path):
    """How much likelier than the forgotten one is up to the method: DPO compares with the reference."""
    trainer = build(method, tmp_path, lora=False, num_train_epochs=8, learning_rate=2e-3, retain_weight=3.0)
    rows = [trainer.row_sets[role] for role in ("forget", "alternate", "retain")]
    before = [sum(s.nll for s in score_answers(trainer.model, part)) for part in rows]
    trainer.train()
    forget, other, retain = (sum(s.nll for s in score_answers(trainer.model, part)) for part in rows)
    assert other < before[1] * 0.5 and forget - other > before[0] - before[1] and retain < before[2] * 0.8
    assert {"alternate/probability", "forget/loss"} <= set(step_logs(trainer)[-1])


def test_the_model_may_be_a_folder(tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    trainer = NPOTrainer(
        model=str(tmp_path / "model"),
        args=arguments(NPOConfig, tmp_path / "out", max_steps=1, forget_loss_unit="answer"),
        forget_dataset=qa_rows(4),
        retain_dataset=qa_rows(4, start=20),
        peft_config=lora_config(),
    )
    trainer.train()
    trainer.save_model()
    assert step_logs(trainer)[0]["forget/loss"] == pytest.approx(AT_REFERENCE, abs=1e-4)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("method", ["npo", "ssiuu"])
@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gpt_neox"])
def test_other_families(family, method, tmp_path):
    own = {"regularizer_weight": 0.1} if method == "ssiuu" else {}
    own["forget_loss_unit"] = "answer"
    trainer = build(method, tmp_path, model=tiny_model(family), forget=4, num_train_epochs=4, **own)
    before = trainable(trainer.model)
    trainer.train()
    after = trainable(trainer.model)
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    lines = step_logs(trainer)
    assert lines[0]["forget/loss"] == pytest.approx(AT_REFERENCE, abs=1e-4)
    assert lines[-1]["forget/loss"] < AT_REFERENCE - 0.5
    assert lines[-1]["forget/probability"] < lines[0]["forget/probability"]


def test_equal_seeds_give_equal_runs_whatever_ran_before(tmp_path):
    weights = []
    for noise, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(noise)
        trainer = build("npo", tmp_path, seed=seed)
        start = trainable(trainer.model)
        trainer.train()
        weights.append((start, trainable(trainer.model)))
    assert largest_difference(weights[0][0], weights[1][0]) == 0.0  # the adapter's first weights
    assert largest_difference(weights[0][1], weights[1][1]) == 0.0
    assert largest_difference(weights[0][0], weights[2][0]) > 0.01


# ---- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [True, False])
def test_npo_starts_at_the_reference(lora, tmp_path):
    base = tiny_model()
    trainer = build("npo", tmp_path, model=copy.deepcopy(base), lora=lora, forget_loss_unit="answer")
    trainer.train()
    lines = step_logs(trainer)
    assert lines[0]["forget/loss"] == pytest.approx(AT_REFERENCE, abs=1e-4)
    assert lines[-1]["forget/loss"] < AT_REFERENCE - 0.1
    # What the loss was compared with all along is the model before training.
    expected = [-score.nll for score in score_answers(base, trainer.forget_rows)]
    assert trainer.reference.logps.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("lora", [True, False])
def test_the_reference_is_kept_by_weights_and_rows(lora, tmp_path, monkeypatch):
    scored = []
    monkeypatch.setattr(
        reference_policy, "score_answers", lambda *args, **kwargs: scored.append(1) or score_answers(*args, **kwargs)
    )
    first = build("npo", tmp_path, lora=lora).reference.logps
    again = build("npo", tmp_path, lora=lora, seed=7).reference.logps  # another fresh adapter
    assert torch.equal(first, again) and len(scored) == 1
    other = build("npo", tmp_path, model=tiny_model(seed=1), lora=lora).reference.logps
    fewer = build("npo", tmp_path, lora=lora, forget=4).reference.logps
    assert not torch.equal(first, other) and len(fewer) == 4 and len(scored) == 3
    assert not list(tmp_path.glob("*.lock")) and not list(tmp_path.glob("*.unfinished"))

    # An adapter that was trained before is part of the reference.
    adapted = build("npo", tmp_path, model=with_trained_adapter(tiny_model()), lora=False).reference.logps
    assert not torch.allclose(first, adapted, atol=1e-3) and len(scored) == 4


@pytest.mark.parametrize("unit", ["answer", "token"])
def test_npo_loss_is_that_of_the_formula_along_the_run(unit, tmp_path):
    trainer = build("npo", tmp_path, forget=4, num_train_epochs=3, beta=0.3, forget_loss_unit=unit)
    rows, expected = trainer.forget_rows, []
    lengths = [sum(label != -100 for label in row["labels"]) if unit == "token" else 1 for row in rows]
    reference = [score.nll for score in score_answers(trainer.model, rows)]
    compute = trainer.compute_loss

    def watched(*args, **kwargs):
        values = [0.3 * (s.nll - r) for s, r in zip(score_answers(trainer.model, rows), reference, strict=True)]
        losses = [2 / 0.3 * math.log1p(math.exp(-value)) for value in values]
        expected.append(sum(map(truediv, losses, lengths)) / len(losses))
        return compute(*args, **kwargs)

    trainer.compute_loss = watched
    trainer.train()
    assert [line["forget/loss"] for line in step_logs(trainer)] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("lora", [True, False])
def test_a_method_may_compare_forget_rows_with_the_model_before_training(lora, tmp_path):
    """As UNDIAL does with its logits (arXiv 2402.10052)."""
    base, seen = tiny_model(), []

    class ComparingTrainer(UnlearnTrainer):
        needs = frozenset({"reference_logits", "reference_hidden_states"})
        hidden_layers = (0, 1)

        def forget_loss(self, answers):
            forget = answers.forget
            seen.append((answers.labels, forget.reference_logits, forget.reference_hidden_states))
            return keeping_loss(forget, "kl") + keeping_loss(forget, "hidden_states") - forget.token_logps.exp()

    trainer = build(ComparingTrainer, tmp_path, model=copy.deepcopy(base), lora=lora, per_device_train_batch_size=11)
    assert reference_words(trainer) == ("the adapter switched off" if lora else "a frozen copy")
    (batch,) = trainer.get_train_dataloader()
    expected = forward_answers(base.eval(), batch, hidden_layers=[0, 1]).forget
    trainer.train()
    for _, logits_before, states_before in seen:
        rows = (logits_before[:, None] - expected.logits).abs().sum(-1).argmin(1)  # another order in each epoch
        torch.testing.assert_close(logits_before, expected.logits[rows], atol=1e-5, rtol=1e-4)
        for layer in (0, 1):
            states = expected.hidden_states[layer][rows]
            torch.testing.assert_close(states_before[layer], states, atol=1e-4, rtol=1e-3)
    assert len(seen) > 1


def test_what_a_method_needs_must_be_known(tmp_path):
    class WishfulTrainer(UnlearnTrainer):
        needs = frozenset({"reference_gradients"})

    with pytest.raises(TypeError, match=r"WishfulTrainer.needs: 'reference_gradients' is unknown; choose from log"):
        build(WishfulTrainer, tmp_path)

    class ComparingTrainer(UnlearnTrainer):
        needs = frozenset({"reference_logits"})

    with pytest.raises(InputError, match=r"logits_chunk_size=8 keeps no logits, which ComparingTrainer needs"):
        build(ComparingTrainer, tmp_path, logits_chunk_size=8)


@pytest.mark.parametrize("lora", [True, False])
def test_kl_retain_loss_starts_at_zero(lora, tmp_path):
    base = tiny_model()
    trainer = build("gradient_ascent", tmp_path, model=copy.deepcopy(base), lora=lora, retain_loss="kl")
    trainer.train()
    values = [line["retain/loss"] for line in step_logs(trainer)]
    assert values[0] == pytest.approx(0.0, abs=1e-6)
    assert min(values[1:]) > 1e-3
    with trainer.reference.running() as reference:
        torch.testing.assert_close(logits(reference.eval()), logits(base))


@pytest.mark.parametrize("retain_loss", ["nll", "kl"])
def test_the_reference_of_a_trained_adapter_is_with_that_adapter(retain_loss, tmp_path):
    adapted = with_trained_adapter(tiny_model())
    given = logits(adapted)
    own = {"retain_loss": retain_loss, "forget_loss_unit": "answer"}
    trainer = build("npo", tmp_path, model=adapted, lora=False, **own)
    assert all("lora_" in name for name in trainable(trainer.model))
    trainer.train()
    first = step_logs(trainer)[0]
    assert first["forget/loss"] == pytest.approx(AT_REFERENCE, abs=1e-4)
    assert not torch.allclose(logits(trainer.model), given, atol=1e-2)
    if retain_loss == "kl":
        assert first["retain/loss"] == pytest.approx(0.0, abs=1e-6)
        with trainer.reference.running() as reference:
            torch.testing.assert_close(logits(reference), given)


def test_the_reference_has_no_dropout(tmp_path):
    model = tiny_model("gpt2", resid_pdrop=0.5)
    trainer = build("gradient_ascent", tmp_path, model=model, retain_loss="kl")
    trainer.model.train()
    with trainer.reference.running() as reference:
        first, second = logits(reference), logits(reference)
    assert torch.equal(first, second)
    assert trainer.model.training


# ---- resume ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ssiuu", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}),
        ("npo", {"lora": False, "lr_scheduler_type": "linear"}),
        ("gradient_ascent", {"lora": False, "retain_loss": "kl"}),
        ("npo", {"general": 7}),
        ("npo", {"general": 7, "general_loss": "kl", "lora": False}),
    ],
)
def test_resuming_equals_the_uninterrupted_run_bit_for_bit(method, options, tmp_path):
    options = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 5} | options
    uninterrupted = build(method, tmp_path, **options)
    uninterrupted.train()
    assert uninterrupted.state.global_step == 12  # three steps an epoch: step 5 is inside the second

    set_seed(99)
    resumed = build(method, tmp_path, **options)
    assert largest_difference(trainable(resumed.model), trainable(uninterrupted.model)) > 1e-3
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert largest_difference(trainable(resumed.model), trainable(uninterrupted.model)) == 0.0
    ours, theirs = step_logs(resumed), step_logs(uninterrupted)
    assert len(ours) == len(theirs) == 12
    assert ours == theirs


# ---- the loss of a batch ---------------------------------------------------------------------------------------------


class OwnLoss(UnlearnTrainer):
    """A custom method that returns what `self.form` says."""

    form = "rows"

    def forget_loss(self, answers):
        forget = answers.forget
        forms = {"scalar": forget.logps.mean(), "rows": forget.logps, "tokens": forget.token_logps}
        return forms.get(self.form, torch.ones(5))


@pytest.mark.parametrize("form", ["scalar", "rows", "tokens"])
def test_a_custom_forget_loss_may_be_a_scalar_or_per_row_or_per_token(form, tmp_path, monkeypatch):
    monkeypatch.setattr(OwnLoss, "form", form)
    trainer = build(OwnLoss, tmp_path, forget=7, num_train_epochs=1, per_device_train_batch_size=7)
    scores = score_answers(trainer.model, trainer.forget_rows)
    before = trainable(trainer.model)
    trainer.train()
    divisor = sum(s.length for s in scores) if form == "tokens" else len(scores)
    assert step_logs(trainer)[0]["forget/loss"] == pytest.approx(-sum(s.nll for s in scores) / divisor, rel=1e-4)
    assert largest_difference(before, trainable(trainer.model)) > 1e-3


@pytest.mark.parametrize("form", ["scalar", "rows", "tokens"])
def test_custom_losses_are_correct_under_accumulation(form, tmp_path, monkeypatch):
    monkeypatch.setattr(OwnLoss, "form", form)
    runs = []
    for batch, accumulate in ((7, 1), (2, 4)):  # micro-batches of 2, 2, 2 and 1
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulate}
        trainer = build(OwnLoss, tmp_path, forget=7, learning_rate=1e-3, adam_epsilon=1e-4, **options)
        trainer.train()
        runs.append(trainable(trainer.model))
    assert largest_difference(*runs) < 1e-5


def test_a_custom_loss_of_another_length_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(OwnLoss, "form", "wrong")
    trainer = build(OwnLoss, tmp_path, forget=4)
    with pytest.raises(ValueError, match="a loss has 5 values for 4 rows and 12 answer tokens; give one per either"):
        trainer.train()


def test_a_trainer_without_forget_loss_is_an_error(tmp_path):
    with pytest.raises(TypeError, match=r"UnlearnTrainer must define forget_loss\(self, answers\)"):
        build(UnlearnTrainer, tmp_path).train()


def test_a_custom_trainer_in_five_lines(tmp_path):
    class FlatTrainer(UnlearnTrainer):
        def forget_loss(self, answers):
            return -answers.forget.logits.log_softmax(-1).mean(-1)

    trainer = build(FlatTrainer, tmp_path, num_train_epochs=6, retain_loss="none")
    trainer.train()
    lines = step_logs(trainer)
    assert lines[-1]["forget/loss"] < lines[0]["forget/loss"] - 0.1


def test_weights_of_the_parts(tmp_path):
    """Total loss = forget_weight * forget + retain_weight * retain + regularizer_weight * regularizer."""
    options = {"forget_weight": 0.5, "retain_weight": 3.0, "regularizer_weight": 7.0, "forget": 4}
    trainer = build("ssiuu", tmp_path, num_train_epochs=3, **options)
    trainer.train()
    for line in step_logs(trainer):
        total = 0.5 * line["forget/loss"] + 3 * line["retain/loss"] + 7 * line["regularizer/loss"]
        assert line["loss"] == pytest.approx(total, rel=1e-4)
        assert line["regularizer/loss"] > 0


@pytest.mark.parametrize("form", ["scalar", "rows", "tokens", "ssiuu"])
def test_a_batch_of_filler_alone_has_no_loss_and_no_gradient(form, tmp_path, monkeypatch):
    """The share of a process at the end of an epoch; a NaN here would spread to all processes."""
    monkeypatch.setattr(OwnLoss, "form", form)
    trainer = build("ssiuu" if form == "ssiuu" else OwnLoss, tmp_path)
    trainer.create_optimizer_and_scheduler(1)
    trainer.state.logging_steps = 1
    filler = {name: value[2:4] for name, value in mixed_batch(forget=2, retain=2, filler=2).items()}
    counts = torch.tensor([[3.0, 9.0], [3.0, 9.0]])  # the global batch has rows
    loss = trainer.compute_loss(trainer.model, filler, num_items_in_batch=counts)
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())
    trainer.before_update()
    own = {"forget/loss", "retain/loss", "forget/probability", "retain/probability"}
    method = {"regularizer/loss", "regularizer/gradient_ratio", "regularizer/weight"}
    method |= {"influence/positive", "influence/negative"}
    # Every process must log the same names: they are summed over processes.
    assert set(trainer.log_sums.sums) == (own | method if form == "ssiuu" else own)


@pytest.mark.parametrize(
    "peft_config", [None, lora_config(), lora_config(target_modules=["down_proj"])], ids=["full", "lora", "down_proj"]
)
def test_activation_checkpointing_changes_nothing(peft_config, tmp_path):
    runs = []
    for checkpointing in (False, True):
        trainer = SsiuuTrainer(
            model=tiny_model(),
            args=arguments(SsiuuConfig, tmp_path, activation_checkpointing=checkpointing, adam_epsilon=1e-4),
            forget_dataset=qa_rows(6),
            retain_dataset=qa_rows(8, start=20),
            processing_class=tiny_tokenizer(),
            peft_config=peft_config,
        )
        model, calls = trainer.model, []
        model.get_input_embeddings().register_forward_hook(lambda *_, calls=calls: calls.append("embedding"))
        decoder_layers(model)[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append("block"))
        trainer.train()
        assert (calls.count("block") > calls.count("embedding")) is checkpointing  # blocks run again
        runs.append((trainable(trainer.model), step_logs(trainer)))
    assert largest_difference(runs[0][0], runs[1][0]) < 1e-6
    for plain, checkpointed in zip(runs[0][1], runs[1][1], strict=True):
        assert checkpointed == pytest.approx(plain, rel=1e-5)
