"""Decoding attack: what many samples, at several temperatures, would say that greedy decoding does not.

No sample is drawn. The probability that a sample is the answer is the product of its token probabilities under
softmax(logits / T), which one forward pass gives exactly, and from it follows the chance that one of k samples is.

Source: arXiv 2511.04934 (leak@k), in closed form: see `metrics.leakage`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel

from llm_unlearn.attacks._variants import mean
from llm_unlearn.attacks.attack import Attack, Target
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.errors import InputError
from llm_unlearn.metrics import leak_at_k
from llm_unlearn.models.scoring import score_answers


def decoding(
    model: PreTrainedModel,
    forget_rows: Sequence[EncodedRow],
    temperatures: Sequence[float] = (0.5, 1.0, 1.5),
    samples: Sequence[int] = (1, 8, 64),
) -> dict:
    """The chance that at least one of k sampled answers is the forgotten one, by temperature; nothing is trained.

    Low temperatures show what greedy decoding all but says, high ones what lies far below the first choice.

    Returns:
        {"variants": {"temperature_0.5": {"forget_leak_at_1": mean, "forget_leak_at_8": mean, ...,
        "value_by_index": {"0": {"leak_at_1": chance, ...}, ...}}, ...}}.

    Raises:
        InputError: a temperature that is not positive and finite, or a number of samples that is no whole number >= 1.
    """
    for temperature in temperatures:
        if not 0 < temperature < math.inf:
            raise InputError(f"attacks: decoding at temperature {temperature} is undefined; give one above 0")
    variants = {}
    for temperature in temperatures:
        with logits_at_temperature(model, temperature):
            scores = score_answers(model, forget_rows)
        leaks = {f"leak_at_{k}": leak_at_k([score.nll for score in scores], k).tolist() for k in samples}
        variants[f"temperature_{float(temperature)}"] = {
            **{f"forget_{name}": mean(values) for name, values in leaks.items()},
            "value_by_index": {
                str(row): {name: values[row] for name, values in leaks.items()} for row in range(len(scores))
            },
        }
    return {"variants": variants}


@contextlib.contextmanager
def logits_at_temperature(model: PreTrainedModel, temperature: float) -> Iterator[None]:
    """Within this scope the model returns logits / temperature (float32), as a sampler would use them.

    The model's output is divided, not its output layer's: Gemma 2 squashes what comes from that layer, others scale it.
    """

    def divide(_module, _arguments, output):
        output.logits = output.logits.float() / temperature
        return output

    handle = model.register_forward_hook(divide)
    try:
        yield
    finally:
        handle.remove()


def _run(target: Target) -> dict:
    return decoding(target.model, target.forget)


ATTACK = Attack(
    "decoding",
    summary="the chance that one of many samples is the true answer",
    title="Decoding",
    label="64 samples",
    on_card="many samples are drawn; nothing is trained",
    run=_run,
)
