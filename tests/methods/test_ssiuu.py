"""Ssiuu's trainer: the published algorithm against a naive one, controls, the automatic weight, and what is refused."""

import copy

import pytest
import torch
from builders import (
    arguments,
    encoded_rows,
    largest_difference,
    lora_config,
    qa_rows,
    step_logs,
    tiny_model,
    tiny_tokenizer,
    trainable,
)

from llm_unlearn import InputError, SsiuuConfig, SsiuuTrainer, UnlearnConfig
from llm_unlearn.methods.ssiuu_published import PublishedSsiuuConfig, PublishedSsiuuTrainer
from llm_unlearn.models.linear_maps import linear_modules


def build(folder, *, model=None, lora=True, forget=6, optimizers=(None, None), published=False, **changes):
    trainer_class, config = (PublishedSsiuuTrainer, PublishedSsiuuConfig) if published else (SsiuuTrainer, SsiuuConfig)
    return trainer_class(
        model=model or tiny_model(),
        args=arguments(config, folder, per_device_train_batch_size=forget, **changes),
        forget_dataset=qa_rows(forget),
        retain_dataset=qa_rows(6, start=20),
        processing_class=tiny_tokenizer(),
        peft_config=lora_config() if lora else None,
        optimizers=optimizers,
    )


def sgd(model, rate):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def answer_logp(model, row):
    """Log-probability of one row's answer, without any of the package's code."""
    logps = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
    wanted = [(i, label) for i, label in enumerate(row["labels"]) if label != -100]
    return torch.stack([logps[i - 1, label] for i, label in wanted])


def naive_algorithm(model, rows, *, rate, steps, weight, reference):
    """Algorithm 1 with gradient ascent, the forget set as one batch, a row at a time."""
    parameters = [p for module in linear_modules(model).values() for p in module.parameters() if p.requires_grad]
    first = before = None
    penalties = []
    for _ in range(steps):
        probability = sum(answer_logp(model, row).sum().exp() for row in rows) / len(rows)
        constants = torch.autograd.grad(probability, parameters)
        influences = [p * g for p, g in zip(parameters, constants, strict=True)]
        now = [a.detach() for a in influences]
        first, before = first or now, before or now
        drawn_to = {"previous": before, "original": first, "zero": [0 * a for a in now]}[reference]
        penalty = sum(((r - a)[a < 0] ** 2).sum() for r, a in zip(drawn_to, influences, strict=True))
        logps = torch.cat([answer_logp(model, row) for row in rows])
        (logps.mean() + weight * penalty).backward()
        penalties.append(penalty.item())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= rate * parameter.grad
        model.zero_grad()
        before = now
    return penalties


@pytest.mark.parametrize("reference", ["previous", "original", "zero"])
def test_published_is_algorithm_1(reference, tmp_path):
    base, weight, rate = tiny_model(), 1e7, 0.02  # so large, because a probability to the power of the answer is small
    model = copy.deepcopy(base)
    trainer = build(
        tmp_path,
        model=model,
        lora=False,
        backbone="gradient_ascent",
        published=True,
        reference=reference,
        regularizer_weight=weight,
        retain_loss="none",
        max_grad_norm=0.0,
        num_train_epochs=4,
        optimizers=sgd(model, rate),
    )
    trainer.train()
    naive = copy.deepcopy(base)
    penalties = naive_algorithm(
        naive, encoded_rows(6), rate=rate, steps=4, weight=weight, reference=trainer.args.reference
    )
    assert [line["regularizer/loss"] for line in step_logs(trainer)] == pytest.approx(penalties, rel=1e-3, abs=1e-12)
    assert (penalties[0] == 0) == (reference != "zero") and penalties[-1] > 0
    plain = copy.deepcopy(base)
    naive_algorithm(plain, encoded_rows(6), rate=rate, steps=4, weight=0.0, reference=reference)
    moved = largest_difference(trainable(naive), trainable(plain))
    assert moved > 1e-3  # the regularizer did something
    assert largest_difference(trainable(model), trainable(naive)) < 1e-3 * moved


def test_published_does_not_depend_on_the_batches(tmp_path):
    """Its influence is that of the whole forget set at the step's parameters, whatever the micro-batches."""
    penalties = []
    for size, accumulate in ((6, 1), (2, 3)):
        trainer = build(
            tmp_path,
            published=True,
            reference="zero",
            influence_of="log_probability",
            regularizer_weight=10.0,
            num_train_epochs=3,
            gradient_accumulation_steps=accumulate,
        )
        trainer.args.per_device_train_batch_size = trainer._train_batch_size = size
        trainer.train()
        penalties.append([line["regularizer/loss"] for line in step_logs(trainer)])
    assert len(penalties[0]) == 3 and penalties[0][-1] > 0
    assert penalties[1] == pytest.approx(penalties[0], rel=1e-3)


def test_exact_and_neuron_agree_on_the_penalty_but_not_on_its_gradient(tmp_path):
    values, ends = [], []
    for variant in ("neuron", "exact"):
        trainer = build(tmp_path, variant=variant, num_train_epochs=2, regularizer_weight=1.0)
        trainer.train()
        values.append([line["regularizer/loss"] for line in step_logs(trainer)])
        ends.append(trainable(trainer.model))
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-4)
    assert largest_difference(*ends) > 1e-4


@pytest.mark.parametrize("backbone", ["npo", "gradient_ascent"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_frozen_output_embedding_is_not_differentiated_twice(family, backbone, tmp_path):
    """The known gradient of its inputs gives the gradients that a second backward through it would."""
    gradients, backwards = [], []
    for frozen in (True, False):
        trainer = build(
            tmp_path, model=tiny_model(family), backbone=backbone, regularizer_weight=3.0, lora=True, forget=3
        )
        head = trainer.model.get_output_embeddings()
        head.weight.requires_grad_(not frozen)
        adapters = [parameter for name, parameter in trainer.model.named_parameters() if "lora" in name]
        seen = []
        hook = head.register_full_backward_hook(
            lambda _module, _inputs, outputs, seen=seen: seen.append(len(outputs[0]))
        )
        for _step in (1, 2):  # first the adapters' B is zero
            batch = next(iter(trainer.get_train_dataloader()))
            trainer.model.zero_grad()
            trainer.compute_loss(trainer.model, batch).backward()
            with torch.no_grad():
                for parameter in adapters:
                    parameter -= 0.1 * parameter.grad
        hook.remove()
        gradients.append({str(i): parameter.grad for i, parameter in enumerate(adapters)})
        backwards.append(len(seen))
    assert backwards == [2, 4]  # in each of two steps once, and twice
    assert largest_difference(*gradients) < 1e-5
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 1e-3


@pytest.mark.parametrize("lora", [True, False])
def test_the_automatic_weight_holds_the_ratio(lora, tmp_path):
    options = {"regularizer_weight": "auto", "regularizer_ratio": 0.5, "num_train_epochs": 8}
    trainer = build(tmp_path, lora=lora, learning_rate=1e-2 if lora else 1e-3, **options)
    trainer.train()
    lines = step_logs(trainer)
    weights = [line["regularizer/weight"] for line in lines]
    ratios = [line["regularizer/gradient_ratio"] for line in lines]
    assert len(lines) == 8 and (weights[0], ratios[0]) == (0.0, 0.0)
    assert len(set(weights)) == 8
    assert all(0.25 < ratio < 1.0 for ratio in ratios[1:])
    first = lines[1]
    parts = first["forget/loss"] + first["retain/loss"] + first["regularizer/weight"] * first["regularizer/loss"]
    assert first["loss"] == pytest.approx(parts, rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"attribution": "positive"},
        {"attribution": "shuffled"},
        {"attribution": "random"},
        {"attribution": "both"},
        {"attribution": "activity"},
        {"token_aggregation": "minimum"},
        {"layers": [0]},
        {"modules": ["q_proj", "k_proj"]},
        {"influence_of": "probability"},
        {"influence_of": "log_odds"},
    ],
)
def test_every_choice_is_another_penalty(options, tmp_path):
    penalties = []
    for choice in ({}, options):
        trainer = build(tmp_path, max_steps=1, regularizer_weight=1.0, **choice)
        trainer.train()
        penalties.append(step_logs(trainer)[0]["regularizer/loss"])
    assert penalties[1] > 0 and penalties[1] != pytest.approx(penalties[0], rel=1e-3)


def test_impossible_combinations_are_refused_before_training(tmp_path):
    with pytest.raises(InputError, match="layers: the model has no block 7; it has blocks 0 to 1"):
        build(tmp_path, layers=[7])
    with pytest.raises(InputError, match="no linear map is called 'c_attn'; choose from q_proj"):
        build(tmp_path, modules=["c_attn"])
    model = tiny_model()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(InputError, match="second derivatives, which attention 'flash_attention_2' lacks"):
        build(tmp_path, model=model, variant="exact")
    trainer = build(tmp_path, variant="exact")
    trainer.model.base_model.model.is_quantized = True
    with pytest.raises(InputError, match="second derivatives, which quantized weights lack"):
        trainer._refuse_impossible()


def test_checkpointing_changes_nothing_in_the_published_variant(tmp_path):
    ends = []
    for checkpointing in (False, True):
        options = {"influence_of": "log_probability", "regularizer_weight": 1e3}
        trainer = build(tmp_path, published=True, activation_checkpointing=checkpointing, **options)
        trainer.train()
        ends.append(trainable(trainer.model))
    assert largest_difference(*ends) < 1e-6


def test_ssiuu_refuses_liger(tmp_path, monkeypatch):
    monkeypatch.setattr(UnlearnConfig, "_check_liger", lambda self: None)  # which has the first word on a CPU
    with pytest.raises(ValueError, match="overwrite what a second backward needs"):
        arguments(SsiuuConfig, tmp_path, use_liger_kernel=True)
