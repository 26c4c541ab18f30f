"""What stands outside the blocks: what that is, that it is frozen, and that a change is told."""

import pytest
import torch
from builders import lora_config, tiny_model
from peft import get_peft_model

from llm_unlearn import InputError
from llm_unlearn.models.outside_blocks import outside_blocks, train_blocks_alone, unchanged_outside_blocks

OUTSIDE = {
    "llama": ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"],
    # A head that is the embedding counts once, by its first name.
    "gpt2": ["transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight", "transformer.ln_f.bias"],
}


@pytest.mark.parametrize("family", OUTSIDE)
def test_embeddings_final_norm_and_head_are_frozen_and_nothing_else(family):
    model = tiny_model(family)
    assert list(outside_blocks(model)) == OUTSIDE[family]
    train_blocks_alone(model)
    assert [name for name, one in model.named_parameters() if not one.requires_grad] == OUTSIDE[family]


def test_an_adapter_of_blocks_is_left_alone_and_one_of_the_head_is_refused():
    model = get_peft_model(tiny_model(), lora_config(target_modules=["q_proj"]))
    before = [name for name, one in model.named_parameters() if one.requires_grad]
    train_blocks_alone(model)
    assert [name for name, one in model.named_parameters() if one.requires_grad] == before != []
    with pytest.raises(InputError, match=r"the adapter trains \S*lm_head\.lora_A\S*, .*; leave it out of target_mod"):
        train_blocks_alone(get_peft_model(tiny_model(), lora_config(target_modules=["q_proj", "lm_head"])))


def test_the_last_bit_of_one_weight_is_told_by_name_and_blocks_may_change():
    model = tiny_model()
    with torch.no_grad():
        with unchanged_outside_blocks(model):
            model.model.layers[0].mlp.down_proj.weight += 1.0
        told = pytest.raises(RuntimeError, match=r"^model\.norm\.weight: changed while")
        with told, unchanged_outside_blocks(model):
            model.model.norm.weight[3] = torch.nextafter(model.model.norm.weight[3], torch.tensor(2.0))
