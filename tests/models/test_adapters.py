"""Merging: the model with the adapter in its weights computes what the adapted one did, tied embeddings or not."""

import copy

import pytest
import torch
from builders import lora_config, tiny_model
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from llm_unlearn.attacks.copies import attackable_copy, merged_copy
from llm_unlearn.errors import InputError
from llm_unlearn.models.adapters import with_adapter

NAMES = {"llama": ("embed_tokens", "up_proj"), "gpt2": ("wte", "c_fc")}
# what of E (input embeddings), H (output) and L (a linear map) is adapted -> whether both ends are one tensor after it
ADAPTED = {
    "nothing of them": ({"target_modules": "L"}, True),
    "input": ({"target_modules": "EL"}, False),
    "output": ({"target_modules": "HL"}, False),
    "both": ({"target_modules": "EHL"}, False),
    "input, saved whole": ({"target_modules": "L", "modules_to_save": "E"}, False),
    "output, saved whole": ({"target_modules": "L", "modules_to_save": "H"}, False),
    "both, saved whole": ({"target_modules": "L", "modules_to_save": "EH"}, False),
    "some tokens": ({"target_modules": "L", "trainable_token_indices": [3, 4, 5]}, True),
    "input, tied": ({"target_modules": "EL", "ensure_weight_tying": True}, None),
    "some tokens, tied": (
        {"target_modules": "L", "trainable_token_indices": [3, 4, 5], "ensure_weight_tying": True},
        True,
    ),
}
IDS = torch.arange(20)[None]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def adapted(family: str, tied: bool, changes: dict):
    embeddings, linear = NAMES[family]
    names = {"E": embeddings, "H": "lm_head", "L": linear}
    spelled = {
        key: [names[one] for one in value] if isinstance(value, str) else value for key, value in changes.items()
    }
    model = get_peft_model(tiny_model(family, tie_word_embeddings=tied), lora_config(**spelled))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("name", ADAPTED)
def test_a_merged_model_says_what_the_adapted_one_said(family, name, tmp_path):
    changes, stays_tied = ADAPTED[name]
    model = adapted(family, True, changes)
    expected, before = logits(model), copy.deepcopy(model.state_dict())
    whole = merged_copy(model)
    torch.testing.assert_close(logits(whole), expected, atol=1e-5, rtol=1e-5)
    is_tied = whole.get_input_embeddings().weight is whole.get_output_embeddings().weight
    assert whole.config.tie_word_embeddings == is_tied and stays_tied in (None, is_tied)
    assert {type(end) for end in (whole.get_input_embeddings(), whole.get_output_embeddings())} == {
        torch.nn.Embedding,
        torch.nn.Linear,
    }
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert model.get_base_model().config.tie_word_embeddings  # the model itself stays as it is
    whole.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(whole), atol=0, rtol=0)
    for lora_r in (None, 2):
        torch.testing.assert_close(logits(attackable_copy(model, lora_r)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_of_untied_embeddings_each_end_is_merged_and_none_tied():
    model = adapted("llama", False, {"target_modules": "EHL"})
    whole = merged_copy(model)
    torch.testing.assert_close(logits(whole), logits(model), atol=1e-5, rtol=1e-5)
    assert not whole.config.tie_word_embeddings


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_adapters_that_begin_by_changing_the_base_are_refused(start):
    with pytest.raises(InputError, match=f"init_lora_weights='{start}' moves a part of the base weights"):
        with_adapter(tiny_model(), lora_config(init_lora_weights=start))
