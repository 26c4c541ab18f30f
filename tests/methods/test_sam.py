"""SAM: the gradient of a step, its exactness, what it logs, and what it refuses."""

import math

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
)

from llm_unlearn import (
    DivergenceError,
    GradientAscentConfig,
    GradientAscentTrainer,
    InputError,
    NPOConfig,
    NPOTrainer,
    SAMConfig,
    SAMTrainer,
)
from llm_unlearn.models.answers import forward_answers

BACKBONES = {"npo": (NPOTrainer, NPOConfig), "gradient_ascent": (GradientAscentTrainer, GradientAscentConfig)}


def build(folder, *, trainer_class=SAMTrainer, config_class=SAMConfig, model=None, lora=True, forget=11, **changes):
    return trainer_class(
        model=tiny_model() if model is None else model,
        args=arguments(config_class, folder, **changes),
        forget_dataset=qa_rows(forget),
        retain_dataset=qa_rows(14, start=20),
        processing_class=tiny_tokenizer(),
        peft_config=lora_config() if lora else None,
    )


def record_steps(trainer):
    """Gradients and parameters right before every optimizer step, filled in while `trainer` trains."""
    gradients, parameters, check = [], [], trainer.check_divergence

    def record():
        gradients.append({name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None})
        parameters.append(trainable(trainer.model))
        check()

    trainer.check_divergence = record
    return gradients, parameters


# ---- the gradient of a step ------------------------------------------------------------------------------------------


def plain_losses(model, batch, references, backbone, beta):
    """Forget and retain loss of a whole batch, written out for full logits."""
    logps = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].log_softmax(-1)
    labels = batch["labels"][:, 1:]
    is_answer = labels != -100
    of_token = logps.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * is_answer
    forget, retain = batch["roles"] == 0, batch["roles"] == 1
    retain_loss = -of_token[retain].sum() / is_answer[retain].sum()
    if backbone == "gradient_ascent":
        return of_token[forget].sum() / is_answer[forget].sum(), retain_loss
    ratio = references - of_token[forget].sum(1)
    losses = -2 / beta * torch.nn.functional.logsigmoid(beta * ratio)
    return (losses / is_answer[forget].sum(1)).mean(), retain_loss


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_is_that_of_two_gradients_in_plain_pytorch(backbone, lora, tmp_path):
    options = {"forget_weight": 0.7, "retain_weight": 2.0, "max_grad_norm": 0.0, "rho": 0.3, "beta": 0.4}
    trainer = build(
        tmp_path,
        model=tiny_model("gpt2").double(),  # Llama takes its norms in float32, whatever the weights
        lora=lora,
        forget=7,
        per_device_train_batch_size=7,
        num_train_epochs=1,
        backbone=backbone,
        **options,
    )
    trainer.model.double()
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    if lora:
        with torch.no_grad():
            for number, parameter in enumerate(parameters):  # away from zero, where half of the gradients vanish
                generator = torch.Generator().manual_seed(number)
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    recorded, _ = record_steps(trainer)
    batch = next(iter(trainer.get_train_dataloader()))
    known = trainer.reference.logps if backbone == "npo" else torch.zeros(7)
    references = known[batch["indices"][batch["roles"] == 0]].double()
    start = [p.detach().clone() for p in parameters]

    def gradient(part):
        loss = plain_losses(trainer.model, batch, references, backbone, 0.4)[part]
        return torch.autograd.grad(loss, parameters)

    up = gradient(0)
    norm = math.sqrt(sum(float((g**2).sum()) for g in up))
    retain = gradient(1)
    with torch.no_grad():
        for parameter, g in zip(parameters, up, strict=True):
            parameter += 0.3 * g / norm
    forget = gradient(0)
    with torch.no_grad():
        for parameter, value in zip(parameters, start, strict=True):
            parameter.copy_(value)
    expected = [0.7 * f + 2.0 * r for f, r in zip(forget, retain, strict=True)]
    without_sam = [0.7 * f + 2.0 * r for f, r in zip(up, retain, strict=True)]

    trainer.train()
    assert len(recorded) == 1
    actual = list(recorded[0].values())
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    assert max(float((a - b).abs().max()) for a, b in zip(actual, without_sam, strict=True)) > 1e-3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_without_a_step_up_it_is_the_backbone(backbone, tmp_path):
    """To the last bit with rho 0; nearly so with a rho of almost nothing, whose rows run apart."""
    trainer_class, config_class = BACKBONES[backbone]
    plain = build(tmp_path, trainer_class=trainer_class, config_class=config_class)
    plain.train()
    runs = {}
    for rho in (0.0, 1e-9, 0.3):
        trainer = build(tmp_path, backbone=backbone, rho=rho)
        trainer.train()
        runs[rho] = trainable(trainer.model)
        if rho == 0:
            assert step_logs(trainer) == step_logs(plain)
    assert largest_difference(runs[0.0], trainable(plain.model)) == 0.0
    assert largest_difference(runs[1e-9], runs[0.0]) < 1e-3 < largest_difference(runs[0.3], runs[0.0])


def test_without_retain_rows(tmp_path):
    trainer = build(tmp_path, lora=False, retain_loss="none", rho=0.1)
    trainer.train()
    lines = step_logs(trainer)
    assert lines[-1]["forget/loss"] < lines[0]["forget/loss"] - 0.1
    assert lines[0]["loss"] == pytest.approx(lines[0]["forget/sam_loss"], rel=1e-5)
    assert not any(name.startswith("retain/") for name in lines[0])


def test_a_zero_gradient_has_no_direction(tmp_path):
    trainer = build(tmp_path, forget_weight=0.0)
    step_ups, find = [], trainer._find_step_up
    trainer._find_step_up = lambda *args: step_ups.append(find(*args))
    trainer.train()
    assert step_ups == [None] * 6
    assert all(math.isfinite(value) for line in step_logs(trainer) for value in line.values())


# ---- exactness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 3])
def test_parameters_are_restored_to_the_last_bit(accumulate, tmp_path):
    trainer = build(tmp_path, lora=False, rho=1.0, gradient_accumulation_steps=accumulate, learning_rate=0.0)
    start = trainable(trainer.model)
    _, before_steps = record_steps(trainer)
    trainer.train()
    assert before_steps
    for parameters in [*before_steps, trainable(trainer.model)]:
        assert largest_difference(parameters, start) == 0.0
    line = step_logs(trainer)[0]
    assert line["forget/sam_loss"] > line["forget/loss"] + 0.1


def test_an_error_at_the_perturbed_point_leaves_the_parameters_as_they_were(tmp_path):
    trainer = build(tmp_path, rho=1.0)
    start, calls, compute = trainable(trainer.model), [], trainer.compute_loss

    def fail(*args, **kwargs):
        calls.append(largest_difference(trainable(trainer.model), start))
        if calls[-1] > 0:
            raise RuntimeError("out of memory")
        return compute(*args, **kwargs)

    trainer.compute_loss = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert calls[:2] == [0.0, 0.0] and len(calls) == 3
    assert largest_difference(trainable(trainer.model), start) == 0.0


def test_resuming_equals_the_uninterrupted_run_bit_for_bit(tmp_path):
    """With dropout: the random state is restored after the batches of the step are drawn."""
    options = {"rho": 0.1, "num_train_epochs": 4, "save_strategy": "steps", "save_steps": 5, "lora": False}

    def model():
        return tiny_model("gpt2", resid_pdrop=0.1)

    uninterrupted = build(tmp_path, model=model(), **options)
    uninterrupted.train()
    assert uninterrupted.state.global_step == 12  # three steps an epoch: step 5 is inside the second
    resumed = build(tmp_path, model=model(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert largest_difference(trainable(resumed.model), trainable(uninterrupted.model)) == 0.0
    assert step_logs(resumed) == step_logs(uninterrupted)


@pytest.mark.parametrize("lora", [True, False])
def test_activation_checkpointing_changes_nothing(lora, tmp_path):
    runs = []
    for checkpointing in (False, True):
        trainer = build(tmp_path, lora=lora, rho=0.3, activation_checkpointing=checkpointing, adam_epsilon=1e-4)
        trainer.train()
        runs.append(trainable(trainer.model))
    assert largest_difference(*runs) < 1e-6


# ---- what is logged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_scores_are_logged_where_the_parameters_are(accumulate, tmp_path):
    options = {"rho": 0.5, "forget_weight": 0.5, "retain_weight": 3.0, "forget": 8, "forget_loss_unit": "answer"}
    trainer = build(tmp_path, gradient_accumulation_steps=accumulate, num_train_epochs=1, **options)
    batches = list(trainer.get_train_dataloader())[:accumulate]
    with torch.no_grad():
        forget = [forward_answers(trainer.model, batch).forget for batch in batches]
        probabilities = torch.cat([(part.logps / part.lengths).exp() for part in forget])
    trainer.train()
    line = step_logs(trainer)[0]
    assert line["forget/loss"] == pytest.approx(2 / 0.1 * math.log(2), abs=1e-4)  # NPO's at its reference
    assert line["forget/probability"] == pytest.approx(float(probabilities.mean()), rel=1e-4)
    assert line["forget/sam_loss"] > line["forget/loss"] + 0.01
    assert line["loss"] == pytest.approx(0.5 * line["forget/sam_loss"] + 3 * line["retain/loss"], rel=1e-4)


def test_a_micro_batch_of_filler_alone_has_no_loss_and_no_gradient(tmp_path):
    """The share of a process at the end of an epoch; a NaN here would spread to all processes."""
    trainer = build(tmp_path)
    trainer.create_optimizer_and_scheduler(1)
    filler = {name: value[2:4] for name, value in mixed_batch(forget=2, retain=2, filler=2).items()}
    counts = torch.tensor([[3.0, 9.0], [3.0, 9.0]])  # the global batch has rows
    trainer._batches = [filler]
    assert trainer.training_step(trainer.model, filler, counts).item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())
    # Every process must log the same names: they are summed over processes.
    own = {"forget/loss", "forget/probability", "forget/sam_loss", "retain/loss", "retain/probability"}
    assert set(trainer.log_sums.sums) == own | {"loss"}


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rho": -0.1}, "rho=-0.1 must be 0 or more and finite"),
        ({"rho": math.nan}, "rho=nan must be 0 or more and finite"),
        ({"rho": math.inf}, "rho=inf must be 0 or more and finite"),
        ({"backbone": "rmu"}, "backbone='rmu' is unknown; choose one of npo, gradient_ascent"),
        ({"beta": 0}, "beta=0 must be above 0"),
    ],
)
def test_bad_arguments(values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SAMConfig(output_dir=str(tmp_path), **values)


def test_half_precision_is_refused_where_it_would_round_the_step_away(tmp_path):
    with pytest.raises(InputError, match=r"rho=0\.01 over all parameters would be rounded away in bfloat16"):
        build(tmp_path, model=tiny_model().bfloat16(), lora=False)
    build(tmp_path, model=tiny_model().bfloat16())  # an adapter is in float32
    trainer = build(tmp_path)
    trainer.args.fp16 = True  # refused by the Trainer itself on a machine without a GPU
    with pytest.raises(InputError, match="SAM cannot be trained with fp16"):
        trainer._refuse_impossible()


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_divergence_leaves_the_last_good_weights(factor, tmp_path):
    trainer = build(tmp_path, backbone="gradient_ascent")
    trainer.forget_loss = lambda answers: answers.forget.token_logps * factor
    start = trainable(trainer.model)
    with pytest.raises(DivergenceError, match="step 1: the loss diverged"):
        trainer.train()
    assert largest_difference(trainable(trainer.model), start) == 0.0
