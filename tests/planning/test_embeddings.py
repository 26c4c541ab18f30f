"""Embeddings of questions are the hidden states that transformers gives, at the last token, whatever the batch."""

import numpy as np
import pytest
import torch
from builders import encoded_rows, tiny_model

from llm_unlearn.planning.embeddings import question_states, questions


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_states_are_those_of_the_questions_alone(family):
    model, rows = tiny_model(family), encoded_rows(5)
    contexts = questions(rows)
    for row, context in zip(rows, contexts, strict=True):
        assert row["labels"][len(context)] != -100 and set(row["labels"][: len(context)]) == {-100}
    found = question_states(model, contexts, [0, 1], batch_size=2)
    with torch.no_grad():
        alone = [model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0, -1] for ids in contexts]
    assert np.allclose(found[0], torch.stack(alone).numpy(), atol=1e-5)
    assert found[1].shape == (5, 32) and not np.allclose(found[0], found[1])


def test_plain_text_is_read_to_its_end():
    assert questions([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}]) == [[5, 6, 7]]
