"""What is pushed as merged says what the adapter on its base said."""

import pytest
from builders import tiny_model, with_trained_adapter
from transformers import AutoModelForCausalLM

from llm_unlearn.errors import InputError
from llm_unlearn.hub import merging
from llm_unlearn.models.loading import load_model


@pytest.fixture
def adapter(tmp_path):
    """An adapter on the output end of tied embeddings."""
    tiny_model(tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with_trained_adapter(base, target_modules=["lm_head", "up_proj"]).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
def test_the_merged_model_is_compared_with_the_adapter_as_it_is_read_again(adapter, dtype, monkeypatch):
    target = adapter.parent / "merged"
    merging.write_merged(adapter, target, dtype)
    assert not load_model(str(target)).config.tie_word_embeddings
    monkeypatch.setattr(merging, "merged", lambda model: model.merge_and_unload())
    with pytest.raises(InputError, match=r"--push merged: .*adapter merged into its base model says something else"):
        merging.write_merged(adapter, target, dtype)
