"""An adapter put into its base model for the hub, and the check that it still says the same."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from llm_unlearn.errors import InputError
from llm_unlearn.models.adapters import merged
from llm_unlearn.models.loading import load_model
from llm_unlearn.models.scoring import evaluation_mode

PROBES = 32  # tokens that the two are compared on
# Mean divergence of the next-token distributions, in nats. Measured on tiny models of four families: up to 2e-8 in
# float32 and 2e-3 in bfloat16, which rounds what an adapter adds; 0.03 and more where tied embeddings were merged as
# one.
TOLERANCE = {torch.float32: 1e-4}
TOLERANCE_16_BITS = 0.02


def write_merged(adapter: Path, target: Path, dtype: str = "auto") -> None:
    """Write the adapter in the weights of its base model to `target`.

    Raises:
        InputError: read again, the model there says something else than the adapted one.
    """
    adapted = load_model(str(adapter), dtype)
    expected = _probe(adapted)
    whole = merged(adapted)
    whole.save_pretrained(target)
    tolerance = TOLERANCE.get(whole.dtype, TOLERANCE_16_BITS)
    del adapted, whole  # one model in memory, not two
    written = _probe(load_model(str(target), dtype))
    divergence = float(nn.functional.kl_div(written, expected, reduction="batchmean", log_target=True))
    if not divergence <= tolerance:  # nor where it is NaN
        raise InputError(
            f"--push merged: {adapter} merged into its base model says something else than the adapter on it "
            f"({divergence:.3g} nats a token, at most {tolerance:g} is rounding), so what was judged would not be what "
            "is uploaded; push the adapter (leave the flag out)"
        )


@torch.no_grad()
def _probe(model: PreTrainedModel) -> torch.Tensor:
    """Log-probabilities of every next token, (PROBES, vocabulary), after tokens from all over the vocabulary."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = torch.arange(PROBES, device=model.device) * vocabulary // PROBES
    with evaluation_mode(model):
        return model(input_ids=tokens[None], use_cache=False).logits[0].float().log_softmax(-1)
