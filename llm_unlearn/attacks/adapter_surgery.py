"""Adapter surgery: an adapter that unlearned can be taken off, turned down or merged by whoever has it.

The weights under an adapter still know everything, so "removed" gives the original's scores by construction: what is
published should be the merged model. Turned down to three quarters or a half, the adapter shows how close to the
surface the knowledge lies. Merged, it must score as before: rounding in the weights' type is all that may differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from llm_unlearn.attacks._variants import variant
from llm_unlearn.attacks.attack import Attack, Target
from llm_unlearn.attacks.copies import merged_copy
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.errors import InputError
from llm_unlearn.models.adapters import adapter_removed
from llm_unlearn.models.scoring import score_answers, score_beside_made_up

FACTORS = (0.75, 0.5)


def adapter_surgery(
    model: PreTrainedModel | PeftModel,
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    made_up: Sequence[Sequence[EncodedRow]] = (),
) -> dict:
    """Score the model with its adapter removed, scaled by 0.75 and by 0.5, and merged; nothing is trained.

    Args:
        made_up: the made-up answers of each forget row, where knowledge is measured.

    Returns:
        {"variants": {"removed": ..., "scaled_0.75": ..., "scaled_0.5": ..., "merged": ...}}, each as
        `_variants.variant` gives it. Adapters without a scaling (other than LoRA's kind) have no scaled variants, and
        models without an adapter no variants at all: then `note` says so.

    Raises:
        InputError: the adapter is in the weights already.
    """
    if not isinstance(model, PeftModel):
        return {"variants": {}, "note": "the model has no adapter"}
    if any(getattr(module, "merged", False) for module in model.modules()):
        raise InputError(
            "attacks: adapter_surgery needs the adapter apart from the weights; call model.unmerge_adapter() first"
        )

    def scored(changed: PreTrainedModel | PeftModel) -> dict:
        forget, wins = score_beside_made_up(changed, forget_rows, made_up)
        return variant(forget, score_answers(changed, retain_rows), wins=wins)

    with adapter_removed(model):
        variants = {"removed": scored(model)}
    can_be_scaled = bool(_scaled_layers(model))
    for factor in FACTORS if can_be_scaled else ():
        with adapter_scaled(model, factor):
            variants[f"scaled_{factor}"] = scored(model)
    variants["merged"] = scored(merged_copy(model))
    return {"variants": variants} | ({} if can_be_scaled else {"note": "the adapter has no scaling to turn down"})


@contextlib.contextmanager
def adapter_scaled(model: PeftModel, factor: float) -> Iterator[None]:
    """Within this scope the adapter counts `factor` times in every layer; modules that it replaces count fully."""
    layers = _scaled_layers(model)
    scalings = [dict(layer.scaling) for layer in layers]
    try:
        for layer, scaling in zip(layers, scalings, strict=True):
            layer.scaling.update({name: value * factor for name, value in scaling.items()})
        yield
    finally:
        for layer, scaling in zip(layers, scalings, strict=True):
            layer.scaling.update(scaling)  # the very numbers: dividing by the factor would round


def _scaled_layers(model: PeftModel) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(getattr(module, "scaling", None), dict)]


def _run(target: Target) -> dict:
    return adapter_surgery(target.model, target.forget, target.retain, target.made_up_of_all)


ATTACK = Attack(
    "adapter_surgery",
    summary="the adapter removed, scaled and merged",
    title="Adapter surgery",
    label="adapter",
    on_card="the adapter removed, scaled and merged; nothing is trained",
    run=_run,
    needs=("adapter",),
)
