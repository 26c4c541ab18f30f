"""Adapter surgery: what each variant is, and that the patient leaves as it came."""

import pytest
import torch
from builders import encoded_rows, tiny_model, with_trained_adapter
from peft import IA3Config, get_peft_model

from llm_unlearn.attacks.adapter_surgery import adapter_scaled, adapter_surgery
from llm_unlearn.errors import InputError
from llm_unlearn.files.outcomes import weights_digest
from llm_unlearn.models.adapters import adapter_removed
from llm_unlearn.models.scoring import score_answers

FORGET, RETAIN = encoded_rows(6), encoded_rows(3, 20)


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([FORGET[0]["input_ids"]])).logits


def scalings(model):
    return [dict(module.scaling) for module in model.modules() if isinstance(getattr(module, "scaling", None), dict)]


def probabilities(variant):
    return [value["probability"] for value in variant["value_by_index"].values()]


def test_the_variants():
    base = tiny_model()
    model = with_trained_adapter(base)
    outcome = adapter_surgery(model, FORGET, RETAIN)
    variants = outcome["variants"]
    assert set(outcome) == {"variants"} and list(variants) == ["removed", "scaled_0.75", "scaled_0.5", "merged"]
    assert probabilities(variants["removed"]) == [score.probability for score in score_answers(base, FORGET)]
    as_it_is = [score.probability for score in score_answers(model, FORGET)]
    assert probabilities(variants["merged"]) == pytest.approx(as_it_is, abs=1e-5)
    with adapter_scaled(model, 0.5):
        halved = [score.probability for score in score_answers(model, FORGET)]
    assert probabilities(variants["scaled_0.5"]) == halved
    retained = score_answers(base, RETAIN)
    assert variants["removed"]["retain_probability"] == sum(score.probability for score in retained) / 3


def test_a_scaled_adapter_counts_by_its_factor():
    """Every layer's weight is W + factor x B A, as if the adapter had been merged with that weight."""
    model = with_trained_adapter(tiny_model())
    before = logits(model)
    with adapter_scaled(model, 1.0):
        assert torch.equal(logits(model), before)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    inputs = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    weights = {name: value.default.weight for name, value in (("A", layer.lora_A), ("B", layer.lora_B))}
    for factor in (0.75, 0.5):
        merged = layer.base_layer.weight + factor * 2 * weights["B"] @ weights["A"]  # alpha / r = 8 / 4
        with adapter_scaled(model, factor), torch.no_grad():
            torch.testing.assert_close(layer(inputs), inputs @ merged.T)


def test_a_halved_adapter_lies_between_none_and_all_of_it():
    base = tiny_model()
    model = with_trained_adapter(base)
    nothing, all_of_it = logits(base), logits(model)
    with adapter_scaled(model, 0.5):
        half = logits(model)
    whole_way = (all_of_it - nothing).norm()
    assert 0 < (half - nothing).norm() < whole_way and 0 < (half - all_of_it).norm() < whole_way


@pytest.mark.parametrize("trainable", [False, True])
def test_the_given_model_is_not_changed(trainable):
    model = with_trained_adapter(tiny_model())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable and "lora_A" in name)
    digest, flags = weights_digest(model), [parameter.requires_grad for parameter in model.parameters()]
    before, factors = score_answers(model, FORGET), scalings(model)
    first = adapter_surgery(model, FORGET, RETAIN)
    assert weights_digest(model) == digest and scalings(model) == factors
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert score_answers(model, FORGET) == before
    assert adapter_surgery(model, FORGET, RETAIN) == first


@pytest.mark.parametrize("change", [adapter_removed, lambda model: adapter_scaled(model, 0.7)])
def test_everything_is_restored_after_an_error(change):
    model = with_trained_adapter(tiny_model())
    model.requires_grad_(False)
    before, factors = logits(model), scalings(model)
    with pytest.raises(ZeroDivisionError), change(model):
        assert not torch.equal(logits(model), before)
        _ = 1 / 0
    assert scalings(model) == factors and torch.equal(logits(model), before)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_models_without_an_adapter_or_with_one_that_cannot_be_scaled():
    assert adapter_surgery(tiny_model(), FORGET, RETAIN) == {"variants": {}, "note": "the model has no adapter"}
    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    outcome = adapter_surgery(get_peft_model(tiny_model(), config), FORGET, [])
    assert list(outcome["variants"]) == ["removed", "merged"]
    assert outcome["note"] == "the adapter has no scaling to turn down"
    assert "retain_probability" not in outcome["variants"]["removed"]


def test_an_adapter_in_the_weights_cannot_be_taken_off_without_a_trace():
    model = with_trained_adapter(tiny_model())
    model.merge_adapter()
    with pytest.raises(InputError, match=r"call model\.unmerge_adapter\(\) first"):
        adapter_surgery(model, FORGET, RETAIN)
