"""Hidden states at chosen tokens, against what the model itself gives when it is asked for all."""

import pytest
import torch
from builders import FAMILIES, encoded_rows, tiny_model, with_trained_adapter

from llm_unlearn.models.hidden_states import states_at


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_the_blocks_outputs_whatever_the_batch(family):
    model = with_trained_adapter(tiny_model(family)) if family == "llama" else tiny_model(family)
    texts = [row["input_ids"] for row in encoded_rows(5)]
    positions = [[len(text) - 1, 0] if number % 2 else [2] for number, text in enumerate(texts)]
    found = states_at(model, texts, positions, batch_size=2)
    assert found.shape == (2, 7, 32) and found.dtype == torch.float32
    assert torch.allclose(found, states_at(model, texts, positions, batch_size=100), atol=1e-6)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():  # the last of the model's own hidden states has gone through the final norm: not this one
        expected = [
            model(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states[1][0, chosen]
            for text, chosen in zip(texts, positions, strict=True)
        ]
    assert torch.allclose(found[0], torch.cat(expected), atol=1e-5)
