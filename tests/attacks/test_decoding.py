"""Decoding: chances worked by hand on two tokens, and agreement with what `metrics.leakage` says of plain scores."""

import math

import pytest
import torch
from builders import encoded_rows, tiny_model, tiny_tokenizer, with_trained_adapter
from transformers import AutoModelForCausalLM, Gemma2Config, GenerationConfig, GPT2Config, GPT2LMHeadModel

from llm_unlearn.attacks.decoding import decoding, logits_at_temperature
from llm_unlearn.errors import InputError
from llm_unlearn.files.outcomes import weights_digest
from llm_unlearn.metrics import leak_at_k
from llm_unlearn.models.scoring import score_answers


def test_a_folders_generation_configuration_plays_no_part():
    """No sample is drawn, so there is nothing that top-k, top-p or a temperature of the folder's could change."""
    model = tiny_model()
    plain = decoding(model, encoded_rows(3))
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.1, top_k=1, top_p=0.1)
    assert decoding(model, encoded_rows(3)) == plain


def two_token_model():
    """Whatever it reads, its logits are log 3 and 0: at temperature 1 three of four tokens are the first."""
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=2, n_embd=4, n_layer=1, n_head=1, n_positions=8, tie_word_embeddings=False)
    ).eval()
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        model.lm_head.weight.zero_()
        model.lm_head.weight[0, 0] = math.log(3)
    return model


def test_two_tokens_by_hand():
    rows = [
        {"input_ids": [1, 0, 1], "labels": [-100, 0, 1]},
        {"input_ids": [1, 0, 0, 0], "labels": [-100, -100, -100, 0]},
    ]
    # Logits of log 3 and 0 give odds of 3^(1/T): 9 to 1, 3 to 1 and, at T = 2, root 3 to 1.
    outcome = decoding(two_token_model(), rows, temperatures=(0.5, 1, 2.0), samples=(1, 8))
    root = math.sqrt(3)
    expected = {
        "temperature_0.5": (0.9 * 0.1, 0.9),
        "temperature_1.0": (3 / 16, 3 / 4),
        "temperature_2.0": (root / (1 + root) ** 2, root / (1 + root)),
    }
    assert list(outcome["variants"]) == list(expected)
    for name, chances in expected.items():
        variant = outcome["variants"][name]
        assert list(variant) == ["forget_leak_at_1", "forget_leak_at_8", "value_by_index"]
        for row, chance in enumerate(chances):
            values = variant["value_by_index"][str(row)]
            assert values == pytest.approx({"leak_at_1": chance, "leak_at_8": 1 - (1 - chance) ** 8}, rel=1e-5)
        for k in (1, 8):
            mean = sum(1 - (1 - chance) ** k for chance in chances) / 2
            assert variant[f"forget_leak_at_{k}"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("adapted", [False, True])
def test_temperature_one_is_leakage_of_plain_scores_and_the_model_is_not_changed(adapted):
    model = with_trained_adapter(tiny_model()) if adapted else tiny_model()
    rows, digest = encoded_rows(8), weights_digest(model)
    outcome = decoding(model, rows)
    plain = score_answers(model, rows)
    assert list(outcome["variants"]) == ["temperature_0.5", "temperature_1.0", "temperature_1.5"]
    for k in (1, 8, 64):
        leaks = leak_at_k([score.nll for score in plain], k).tolist()
        variant = outcome["variants"]["temperature_1.0"]
        assert [value[f"leak_at_{k}"] for value in variant["value_by_index"].values()] == leaks
        assert variant[f"forget_leak_at_{k}"] == pytest.approx(sum(leaks) / 8, rel=1e-12)
    assert weights_digest(model) == digest and not model._forward_hooks


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_models_own_logits_are_divided_also_where_its_output_layers_are_squashed(family):
    if family == "gemma2":
        config = Gemma2Config(
            vocab_size=len(tiny_tokenizer()),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            initializer_range=0.2,
            final_logit_softcapping=2.0,
        )
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    else:
        model = tiny_model()
    ids = torch.tensor([encoded_rows(1)[0]["input_ids"]])
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with logits_at_temperature(model, 1.5):
            torch.testing.assert_close(model(input_ids=ids).logits, plain / 1.5)
        assert torch.equal(model(input_ids=ids).logits, plain)


def test_the_hook_is_gone_after_an_error():
    model = tiny_model()
    with pytest.raises(ZeroDivisionError), logits_at_temperature(model, 0.5):
        _ = 1 / 0
    assert not model._forward_hooks


def test_logits_of_16_bits_are_divided_in_32():
    model = tiny_model().to(torch.bfloat16)
    ids = torch.tensor([encoded_rows(1)[0]["input_ids"]])
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with logits_at_temperature(model, 1.5):
            assert torch.equal(model(input_ids=ids).logits, plain.float() / 1.5)


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_impossible_temperatures(temperature):
    with pytest.raises(InputError, match=f"decoding at temperature {temperature} is undefined; give one above 0"):
        decoding(tiny_model(), encoded_rows(1), temperatures=(1.0, temperature))


def test_impossible_numbers_of_samples():
    with pytest.raises(InputError, match="k must be finite and >= 1, got 0"):
        decoding(tiny_model(), encoded_rows(1), samples=(1, 0))
