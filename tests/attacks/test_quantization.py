"""Quantization: how coarse the copies are, and that nothing else happens to them or to the given model."""

import logging
import sys

import bitsandbytes
import pytest
import torch
from builders import FAMILIES, encoded_rows, tiny_model, with_trained_adapter
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from llm_unlearn.attacks import quantization as module
from llm_unlearn.attacks.copies import merged_copy
from llm_unlearn.attacks.quantization import FORMATS, check_quantization, quantization, quantized_copy
from llm_unlearn.errors import InputError
from llm_unlearn.files.outcomes import weights_digest
from llm_unlearn.models.exact_quantization import dequantized
from llm_unlearn.models.scoring import score_answers

KINDS = {
    "nf4": bitsandbytes.nn.Linear4bit,
    "fp4": bitsandbytes.nn.Linear4bit,
    "int8": bitsandbytes.nn.Linear8bitLt,
}


def rounded_weights(layer):
    if not isinstance(layer, bitsandbytes.nn.Linear4bit):
        return layer.weight.data.float() * layer.weight.SCB[:, None] / 127
    weights = dequantized(layer.weight.data, layer.weight.quant_state, torch.float32)
    computed = layer(torch.eye(layer.in_features)).T - (0 if layer.bias is None else layer.bias[:, None])
    torch.testing.assert_close(computed, weights)  # what the map computes is what its table says, on every processor
    return weights


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", FORMATS)
def test_weights_are_rounded_within_the_steps_of_their_format(family, name):
    model = tiny_model(family)
    quantized = quantized_copy(model, name)
    originals, rounded = dict(model.named_modules()), 0
    for path, layer in quantized.named_modules():
        if not isinstance(layer, KINDS[name]):
            continue
        weight = originals[path].weight.detach()
        weight = weight.T if isinstance(originals[path], Conv1D) else weight
        error, largest = (rounded_weights(layer) - weight).abs(), weight.abs().amax(1, keepdim=True)
        if name == "int8":
            # One scale a row, 127 steps to each side: half a step, and 127 / 4096 twice as both are taken in float16.
            assert (error <= largest / 127 * (0.5 + 2 * 127 / 4096)).all()
        else:
            assert (error <= weight.abs().max() * 0.17).all()  # the widest gap of either table is a third of its range
        assert error.max() > 0
        rounded += 1
    # Conv1D of GPT-2 and fused projections count once; embeddings and output layer are not rounded.
    assert rounded == 2 * {"llama": 7, "qwen2": 7, "gpt2": 4, "gpt_neox": 4}[family]
    assert torch.equal(quantized.get_output_embeddings().weight, model.get_output_embeddings().weight)
    assert torch.equal(quantized.get_input_embeddings().weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize("adapted", [False, True])
def test_scores_are_those_of_the_copies_and_the_given_model_stays_bit_for_bit(adapted):
    model = with_trained_adapter(tiny_model()) if adapted else tiny_model()
    forget, retain = encoded_rows(6), encoded_rows(3, 20)
    digest, before = weights_digest(model), score_answers(model, forget)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    outcome = quantization(model, forget, retain)
    assert weights_digest(model) == digest and score_answers(model, forget) == before
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert getattr(model.config, "quantization_config", None) is None
    assert list(outcome["variants"]) == ["nf4", "fp4", "int8"]
    for name, variant in outcome["variants"].items():
        quantized = quantized_copy(merged_copy(model), name)
        scores = score_answers(quantized, forget)
        assert score_answers(quantized, forget) == scores  # scoring leaves the copy as it is
        expected = {str(i): {"probability": s.probability, "exact_match": s.exact_match} for i, s in enumerate(scores)}
        assert variant["value_by_index"] == expected
        assert variant["forget_probability"] == pytest.approx(sum(s.probability for s in scores) / 6, rel=1e-12)
        retained = score_answers(quantized, retain)
        assert variant["retain_probability"] == pytest.approx(sum(s.probability for s in retained) / 3, rel=1e-12)
        assert all(abs(new.nll - old.nll) < 0.35 * old.nll for new, old in zip(scores, before, strict=True))
        assert scores != before
    assert quantization(model, forget, retain) == outcome


def test_the_share_of_rounded_parameters_and_no_retain_rows():
    outcome = quantization(tiny_model(), encoded_rows(2), [])
    # Width 32, 16 for keys and values, 48 inside: per layer 32 x (2 x 32 + 2 x 16) + 3 x 32 x 48, of two layers.
    rounded = 2 * (32 * (2 * 32 + 2 * 16) + 3 * 32 * 48)
    vocabulary = tiny_model().config.vocab_size
    assert outcome["quantized_share"] == rounded / (rounded + 2 * vocabulary * 32 + 5 * 32)
    assert set(outcome["variants"]["int8"]) == {"forget_exact_match", "forget_probability", "value_by_index"}


@pytest.mark.parametrize("size", [24, 50])
def test_any_layer_size_will_do(size):
    model = tiny_model(hidden_size=40, intermediate_size=size)
    before = score_answers(model, encoded_rows(4))
    for name in FORMATS:
        after = score_answers(quantized_copy(model, name), encoded_rows(4))
        assert all(abs(new.nll - old.nll) < 0.35 * old.nll for new, old in zip(after, before, strict=True))


def test_the_copy_keeps_type_and_attention_and_never_repacks_its_weights(monkeypatch):
    # As on a processor with AVX512-BF16.
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    model = tiny_model().to(torch.bfloat16)
    model.set_attn_implementation("eager")
    quantized = quantized_copy(model, "nf4")
    layers = [layer for layer in quantized.modules() if isinstance(layer, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 14 and not any(layer.support_avx512bf16_for_cpu for layer in layers)
    assert quantized.dtype == torch.bfloat16 and not quantized.training
    assert quantized.config._attn_implementation == "eager"
    packed = [layer.weight.data.clone() for layer in layers]
    score_answers(quantized, encoded_rows(2))
    assert all(torch.equal(layer.weight.data, before) for layer, before in zip(layers, packed, strict=True))


def test_weights_that_are_lost_on_the_way_are_an_error(monkeypatch):
    model = tiny_model()
    state = {name: value for name, value in model.state_dict().items() if "layers.1.mlp.up_proj" not in name}
    monkeypatch.setattr(model, "state_dict", lambda: state)
    with pytest.raises(RuntimeError, match=r"weights were lost on the way to int8: model.layers.1.mlp.up_proj.weight"):
        quantized_copy(model, "int8")


def test_missing_bitsandbytes_is_found_before_anything_runs(monkeypatch):
    check_quantization()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(module, "merged_copy", lambda model: pytest.fail("too late"))
    with pytest.raises(InputError, match=r'install it with pip install "llm_unlearn\[quantization\]", or leave'):
        check_quantization()
    with pytest.raises(InputError, match="quantization needs bitsandbytes"):
        quantization(tiny_model(), encoded_rows(1), [])


def test_models_that_cannot_be_quantized():
    model = tiny_model()
    check_quantization(model)
    check_quantization(with_trained_adapter(model))
    check_quantization(tiny_model("gpt2"))  # Conv1D in place of linear layers
    nothing_between = torch.nn.Sequential(torch.nn.Embedding(8, 8), head := torch.nn.Linear(8, 8))
    nothing_between.config, nothing_between.get_output_embeddings = model.config, lambda: head
    with pytest.raises(InputError, match="finds no linear map to round in Sequential"):
        check_quantization(nothing_between)
    model.config.quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(InputError, match="these are quantized already; load the model in bfloat16"):
        check_quantization(model)


def test_no_noise_and_loggers_as_before(capfd):
    casts = logging.getLogger("bitsandbytes.autograd._functions")
    level = casts.level
    quantization(tiny_model(), encoded_rows(2), [])
    assert capfd.readouterr() == ("", "") and casts.level == level
