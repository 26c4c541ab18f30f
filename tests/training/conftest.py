"""A model that has something to forget."""

import pytest
from builders import encoded_rows, tiny_model

from llm_unlearn.models.finetuning import finetune


@pytest.fixture(scope="session")
def memorizer():
    """Knows the forget rows 0 to 7 and the retain rows 20 to 27."""
    model = tiny_model()
    finetune(model, [*encoded_rows(8), *encoded_rows(8, 20)], learning_rate=5e-3, steps=80, batch_size=16, seed=0)
    return model
