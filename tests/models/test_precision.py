"""Models stored in 16 bits: attacked with float32 weights, as strongly as their twins in float32."""

import copy
import inspect
import math

import pytest
import torch
from builders import (
    arguments,
    encoded_rows,
    largest_difference,
    qa_rows,
    tiny_model,
    tiny_tokenizer,
    trainable,
    with_trained_adapter,
)

from llm_unlearn import NPOConfig, NPOTrainer
from llm_unlearn.attacks import relearning
from llm_unlearn.attacks.adversarial_reinjection import adversarial_reinjection
from llm_unlearn.attacks.copies import attackable_copy, merged_copy
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.data import encode_dataset, load_unlearning_data
from llm_unlearn.models.embedded import embedded_model
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.models.loading import load_model, load_tokenizer
from llm_unlearn.models.precision import (
    autocast_dtype,
    computing_dtype,
    stored_dtype,
    with_master_weights,
    without_mixed_precision,
)
from llm_unlearn.models.scoring import generate_answers, score_answers

HALVES = (torch.bfloat16, torch.float16)


def in_bfloat16(model):
    return copy.deepcopy(model).to(torch.bfloat16)


def types(model):
    return {parameter.dtype for parameter in model.parameters()}


def logits(model):
    return model(input_ids=torch.tensor([encoded_rows(1)[0]["input_ids"]])).logits


# ---- what an attackable copy is --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_copy_has_float32_weights_and_computes_in_bfloat16(family, dtype):
    stored = tiny_model(family).to(dtype)
    attacked = attackable_copy(stored)
    assert types(attacked) == {torch.float32} and types(stored) == {dtype} == types(merged_copy(stored))
    assert all(torch.equal(p, q.float()) for p, q in zip(attacked.parameters(), stored.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in attacked.parameters())
    assert attacked.get_output_embeddings().weight is not stored.get_output_embeddings().weight
    tied = [m.get_output_embeddings().weight is m.get_input_embeddings().weight for m in (attacked, stored)]
    assert tied[0] == tied[1]
    assert logits(attacked).dtype == torch.bfloat16 and computing_dtype(attacked) == torch.bfloat16
    assert inspect.signature(attacked.forward) == inspect.signature(stored.forward)
    # The score before the first step is that of the stored model, to the digits that bfloat16 has.
    rows = encoded_rows(8)
    for mine, theirs in zip(score_answers(attacked, rows), score_answers(stored, rows), strict=True):
        assert mine.probability == pytest.approx(theirs.probability, rel=0.05)


def test_a_copy_of_a_copy_computes_with_its_own_weights():
    first = attackable_copy(in_bfloat16(tiny_model()))
    second = copy.deepcopy(first)
    expected = logits(first)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert torch.equal(logits(second), expected) and not logits(first).any()


def test_a_model_in_float32_stays_as_it_is():
    model = tiny_model()
    attacked = attackable_copy(model)
    assert torch.equal(logits(attacked), logits(model)) and "forward" not in vars(attacked)
    assert stored_dtype(model) == computing_dtype(attacked) == torch.float32
    double = attackable_copy(tiny_model().double())
    assert types(double) == {torch.float64}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_was_trained_in_mixed_precision_is_attacked_as_one_from_a_folder(tmp_path, dtype):
    rows = {"forget_dataset": qa_rows(8), "retain_dataset": qa_rows(8, 8), "processing_class": tiny_tokenizer()}
    tiny_model().to(dtype).save_pretrained(tmp_path / "first")
    trainer = NPOTrainer(str(tmp_path / "first"), arguments(NPOConfig, tmp_path, bf16=True, max_steps=1), **rows)
    trainer.train()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    trainer.save_model(tmp_path / "saved")
    loaded = load_model(str(tmp_path / "saved"))
    assert "_original_forward" in vars(trained) and loaded.dtype == dtype
    for lora_r in (None, 2):
        assert torch.equal(logits(attackable_copy(trained, lora_r)), logits(attackable_copy(loaded, lora_r)))
    assert "_original_forward" in vars(trained)
    # It is scored so, too, and with other numbers only where it is stored in 32 bits.
    in_training = logits(trained)
    assert torch.equal(logits(without_mixed_precision(trained)), logits(loaded))
    assert torch.equal(in_training, logits(trained)) is (dtype == torch.bfloat16)
    assert without_mixed_precision(loaded) is loaded


def test_a_lora_attacker_has_a_float32_adapter_on_weights_as_they_are_stored():
    for dtype, base in ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)):
        attacked = attackable_copy(tiny_model().to(dtype), lora_r=2)
        found = {"lora_" in name: parameter.dtype for name, parameter in attacked.named_parameters()}
        assert found == {True: torch.float32, False: base}
        assert logits(attacked).dtype == computing_dtype(attacked) == torch.bfloat16
        before = trainable(attacked)
        assert finetune(attacked, encoded_rows(4), learning_rate=1e-6, steps=3, batch_size=4, seed=0) < 1e-4
        assert 1e-6 < largest_difference(trainable(attacked), before) < 4e-6


def test_an_adapter_is_merged_before_its_small_values_are_rounded_away():
    adapted = with_trained_adapter(tiny_model(), r=2)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.mul_(1e-4)
    stored = adapted.to(torch.bfloat16)
    base = dict(stored.get_base_model().named_parameters())["model.layers.0.mlp.up_proj.base_layer.weight"]
    exact, rounded = (
        dict(merged.named_parameters())["model.layers.0.mlp.up_proj.weight"]
        for merged in (attackable_copy(stored), merged_copy(stored))
    )
    assert (exact != base.float()).float().mean() > 0.9 and (rounded != base).float().mean() < 0.1


def test_sixteen_bits_are_computed_in_bfloat16_where_the_device_has_it(monkeypatch):
    assert autocast_dtype(torch.float32, "cpu") == torch.float32
    assert {autocast_dtype(half, "cpu") for half in HALVES} == {torch.bfloat16}
    for has_it, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has_it=has_it: has_it)
        assert {autocast_dtype(half, "cuda") for half in HALVES} == {expected}


def test_scores_and_answers_in_an_attack_are_those_of_the_weights_that_there_are():
    """A cache of the weights in 16 bits that outlives a step would show those from before it."""
    tokenizer, rows = tiny_tokenizer(), encoded_rows(6)
    model, along = attackable_copy(in_bfloat16(tiny_model())), {}

    def score(step):
        if step % 10 == 0:
            along[step] = score_answers(model, rows)

    with torch.autocast("cpu", torch.bfloat16):  # whose own cache is on, as that of a training loop around it may be
        finetune(model, rows, learning_rate=5e-3, steps=40, batch_size=6, seed=0, after_step=score)
    fresh = with_master_weights(copy.deepcopy(model), torch.bfloat16)
    assert score_answers(fresh, rows) == score_answers(model, rows) == along[40] != along[30]
    assert all(score.exact_match and score.probability > 0.9 for score in along[40])
    prompts = [
        [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100] for row in rows
    ]
    answers = [tokenizer.decode([i for i in row["labels"] if i != -100], skip_special_tokens=True) for row in rows]
    assert generate_answers(model, tokenizer, prompts, max_new_tokens=5) == answers


# ---- attacks on twins ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_world(tmp_path_factory):
    """The tiny embedded model before and after NPO, and its forget rows with their facts."""
    folder, data = str(embedded_model("tiny")), load_unlearning_data("fictional:tiny")
    tokenizer = load_tokenizer(folder)
    options = {"learning_rate": 1e-3, "max_steps": 8, "per_device_train_batch_size": 16, "retain_weight": 5.0}
    trainer = NPOTrainer(
        load_model(folder),
        arguments(NPOConfig, tmp_path_factory.mktemp("npo"), **options, beta=0.5, save_strategy="no"),
        forget_dataset=data.forget,
        retain_dataset=data.retain,
        processing_class=tokenizer,
    )
    trainer.train()
    rows = encode_dataset(data.forget, tokenizer, None, "forget rows")
    return {"original": load_model(folder), "npo": trainer.model.eval()}, rows, list(data.forget["fact_id"])


@pytest.fixture
def distances(monkeypatch):
    """How far every attack moved the weights."""
    found, real = [], relearning.finetune

    def measured(attacked, rows, **options):
        start = trainable(attacked)
        lost = real(attacked, rows, **options)
        found.append(math.sqrt(sum((p - start[name]).square().sum() for name, p in trainable(attacked).items())))
        return lost

    monkeypatch.setattr(relearning, "finetune", measured)
    return found


@pytest.mark.parametrize("name", ["original", "npo"])
@pytest.mark.parametrize(("learning_rate", "steps"), [(1e-3, 10), (1e-5, 3), (1e-6, 3)])
def test_twins_in_bfloat16_and_float32_recover_the_same(tiny_world, distances, name, learning_rate, steps):
    models, rows, facts = tiny_world
    budget = AttackBudget((learning_rate,), seeds=(0, 1), steps=steps, score_every=steps)
    curves = []
    for twin in (models[name], in_bfloat16(models[name])):
        runs = adversarial_reinjection(twin, rows, [], budget, facts)["runs"]
        assert all(run["lost_updates"] < 1e-4 for run in runs)
        curves.append([point["forget_probability"] for run in runs for point in run["curve"]])
    assert curves[1] == pytest.approx(curves[0], abs=0.005)  # seeds differ by 0.1 in the unlearned model
    assert distances[2:] == pytest.approx(distances[:2], rel=0.1)
    assert min(distances) > 50 * learning_rate  # of 80,000 weights, each of which goes a learning rate a step at most


def test_without_master_weights_most_of_an_attack_is_lost(tiny_world):
    models, rows, _ = tiny_world
    options = {"steps": 5, "batch_size": 8, "seed": 0}
    stored = in_bfloat16(models["npo"])
    assert finetune(copy.deepcopy(stored), rows, learning_rate=1e-5, **options) > 0.7
    assert finetune(copy.deepcopy(stored), rows, learning_rate=1e-6, **options) > 0.9
