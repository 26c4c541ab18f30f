"""Quantization attack: coarser weights may undo small changes, and with them what unlearning changed.

Unlearning moves weights little. Rounded to 4 or 8 bits, many fall back to the value that they would have had before,
and what was only hidden comes back, without any training and as a side effect of how models are served.

Source: Zhang et al. 2024, arXiv 2410.16454; formats: NF4 and FP4 of Dettmers et al. 2023, arXiv 2305.14314, LLM.int8()
of Dettmers et al. 2022, arXiv 2208.07339, all by bitsandbytes.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator, Sequence

from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from llm_unlearn.attacks._variants import variant
from llm_unlearn.attacks.attack import Attack, Target
from llm_unlearn.attacks.copies import merged_copy
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.errors import InputError
from llm_unlearn.models.loading import never_repacked
from llm_unlearn.models.scoring import score_answers, score_beside_made_up

FORMATS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}


def quantization(
    model: PreTrainedModel,
    forget_rows: Sequence[EncodedRow],
    retain_rows: Sequence[EncodedRow],
    made_up: Sequence[Sequence[EncodedRow]] = (),
) -> dict:
    """Score copies of the model whose linear maps have been rounded to NF4, FP4 and int8; nothing is trained.

    An adapter is merged first. Embeddings, the output layer and whatever else transformers keeps in floating point
    stay as they are, experts that are stored as one tensor among them. In int8 the columns that stay in floating point
    are chosen by the activations of a whole batch, so scores depend a little on which rows are scored together.

    Args:
        made_up: the made-up answers of each forget row, where knowledge is measured.

    Returns:
        {"variants": {"nf4": ..., "fp4": ..., "int8": ...}, "quantized_share": share of the parameters that were
        rounded}; each variant as `_variants.variant` gives it.

    Raises:
        InputError: as `check_quantization`.
    """
    check_quantization(model)
    attacked, variants = merged_copy(model).requires_grad_(False), {}
    for name in FORMATS:
        with _quiet():
            quantized = quantized_copy(attacked, name)
            forget, wins = score_beside_made_up(quantized, forget_rows, made_up)
            variants[name] = variant(forget, score_answers(quantized, retain_rows), wins=wins)
    rounded = sum(layer.in_features * layer.out_features for layer in _rounded_layers(quantized))
    return {"variants": variants, "quantized_share": rounded / sum(weight.numel() for weight in attacked.parameters())}


def check_quantization(model: PreTrainedModel | None = None) -> None:
    """Find out before anything heavy runs whether models, or this one, can be quantized.

    Any layer size will do: those that the fast kernels cannot take (on processors with AVX512-BF16, multiples of 32
    only) are computed by others.

    Raises:
        InputError: bitsandbytes is not installed or does not load; the model is quantized already, or has no linear map
            between embeddings and output layer.
    """
    try:
        import bitsandbytes  # noqa: F401  (an optional extra)
    except ImportError as error:
        raise InputError(
            f"attacks: quantization needs bitsandbytes ({error}); install it with pip install "
            '"llm_unlearn[quantization]", or leave this attack out'
        ) from error
    if model is None:
        return
    if getattr(model.config, "quantization_config", None) is not None:
        raise InputError(
            "attacks: quantization needs weights in floating point, and these are quantized already; load the model in "
            "bfloat16, or leave this attack out"
        )
    head = model.get_output_embeddings()
    if not any(type(module) in (nn.Linear, Conv1D) and module is not head for module in model.modules()):
        raise InputError(
            f"attacks: quantization finds no linear map to round in {type(model).__name__}; leave this attack out"
        )


def quantized_copy(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """A copy of `model` (no adapter) in one of `FORMATS`, on its device; tensors that are not rounded are shared.

    It goes through no folder: `save_pretrained` writes on the first process only, and any process may be attacking.
    Scores are the same on every processor: `exact_quantization`.
    """
    from llm_unlearn.models.exact_quantization import exact_where_kernels_are_wrong  # needs bitsandbytes

    quantized, loading = type(model).from_pretrained(
        None,
        config=copy.deepcopy(model.config),
        state_dict=model.state_dict(),
        quantization_config=BitsAndBytesConfig(**FORMATS[name], bnb_4bit_compute_dtype=model.dtype),
        device_map={"": model.device},
        dtype=model.dtype,
        attn_implementation=model.config._attn_implementation,
        output_loading_info=True,
    )
    if lost := sorted(loading["missing_keys"] | loading["mismatched_keys"]):  # they would have got random values
        raise RuntimeError(f"weights were lost on the way to {name}: {', '.join(map(str, lost[:5]))}")
    return exact_where_kernels_are_wrong(never_repacked(quantized)).eval()


def _rounded_layers(quantized: PreTrainedModel) -> list[nn.Linear]:
    import bitsandbytes

    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    return [layer for layer in quantized.modules() if isinstance(layer, kinds)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar per loading and, of int8, no warning per layer and forward about a cast that is meant."""
    casts, had_bars = (
        logging.getLogger("bitsandbytes.autograd._functions"),
        transformers_logging.is_progress_bar_enabled(),
    )
    level = casts.level
    casts.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        casts.setLevel(level)
        if had_bars:
            transformers_logging.enable_progress_bar()


def _check(_target: Target) -> None:
    check_quantization()


def _run(target: Target) -> dict:
    return quantization(target.model, target.forget, target.retain, target.made_up_of_all)


ATTACK = Attack(
    "quantization",
    summary="4-bit and 8-bit copies",
    title="Quantization",
    label="quantized",
    on_card="4-bit and 8-bit copies; nothing is trained",
    run=_run,
    check=_check,
)
