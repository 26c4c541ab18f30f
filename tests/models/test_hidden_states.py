"""Hidden states at chosen tokens, against what the model itself gives when it is asked for all."""

import pytest
import torch
from builders import FAMILIES, encoded_rows, tiny_model, with_trained_adapter

from llm_unlearn.models.hidden_states import states_and_head_inputs, states_at


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_the_blocks_outputs_whatever_the_batch(family):
    model = with_trained_adapter(tiny_model(family)) if family == "llama" else tiny_model(family)
    texts = [row["input_ids"] for row in encoded_rows(5)]
    positions = [[len(text) - 1, 0] if number % 2 else [2] for number, text in enumerate(texts)]
    found = states_at(model, texts, positions, batch_size=2)
    assert found.shape == (2, 7, 32) and found.dtype == torch.float32
    assert torch.allclose(found, states_at(model, texts, positions, batch_size=100), atol=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():  # the last of the model's own hidden states has gone through the final norm: not this one
        expected = [
            model(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states[1][0, chosen]
            for text, chosen in zip(texts, positions, strict=True)
        ]
    assert torch.allclose(found[0], torch.cat(expected), atol=1e-5)


def test_what_the_head_is_given_has_gone_through_the_final_norm():
    model = with_trained_adapter(tiny_model())
    texts = [row["input_ids"] for row in encoded_rows(5)]
    blocks, given = states_and_head_inputs(model, texts, [[len(text) - 1, 1] for text in texts], 2, layers=[0])
    assert blocks.shape == (1, 10, 32) and given.shape == (10, 32)
    for number, text in enumerate(texts):
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states
        assert torch.allclose(blocks[0, 2 * number : 2 * number + 2], wanted[1][0, [-1, 1]], atol=1e-5)
        assert torch.allclose(given[2 * number : 2 * number + 2], wanted[2][0, [-1, 1]], atol=1e-5)
