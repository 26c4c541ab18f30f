"""The influence audit: did neurons that speak for an answer lose their say, or did others learn to shout it down?

A neuron is one scalar of the output of a linear map inside a transformer block (`models.linear_maps`). Its influence at
token k of a row is A_k = h_k * ds/dh_k, with h_k its output there and s the answer's score. From a model
before to a model after:

    erasure of a neuron  D+ = relu(mean over rows of [max_k A_k - max_k max(A'_k, 0)])
    hiding by a neuron   D- = relu(mean over rows of [min_k A_k - min_k A'_k])

with A before and A' after. Hiding grows new negative influence and leaves the positive one in place: D- >> D+.
(As published, D- also counts what a neuron loses that speaks for the answer at every token; few do, for most tokens
have no influence.)

Which score. The paper's s is the answer's probability; here it is that per token, exp(mean log-probability), for the
product over twenty tokens underflows. A probability near 1 has no gradient left, and neither has its logarithm: of a
memorized answer all influence is close to zero *before*, so that D+ has nothing to lose, D- all to gain, and models
that never saw the answers seem to hide them. In the small fictional world the hiding shares of three oracles were 1.00
with either. The default is therefore the mean log-odds of the answer's tokens, log(p / (1 - p)), which does not
saturate: the same oracles have 0.47 to 0.57, and a model unlearned by NPO 0.97.

Neurons are compared one by one, so the two models must descend from one another, or at least have started from the same
weights: those of a model trained from another seed are other neurons, and D+ and D- then measure that, too.

Source: Yang et al., "Erase or Hide?", arXiv 2509.22263.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn
from transformers import PreTrainedModel

from llm_unlearn.audits.audit import Audit, Inspection, Measure
from llm_unlearn.data.collators import RETAIN, EncodedRow, pad_rows
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.errors import InputError
from llm_unlearn.methods.attribution import answer_scores, capture_outputs
from llm_unlearn.models.answers import Answers, forward_answers
from llm_unlearn.models.linear_maps import linear_modules
from llm_unlearn.models.scoring import evaluation_mode

SCORES = ("probability", "log_probability", "log_odds")


@dataclass(frozen=True)
class NeuronInfluence:
    """The neurons of one linear map over the rows of a data set: four tensors (neurons,), float64.

    Attributes:
        highest: mean over rows of max_k A_k.
        positive: mean over rows of max_k max(A_k, 0).
        lowest: mean over rows of min_k A_k.
        mean: mean over rows of the mean over tokens of A_k, the neuron's attribution.
    """

    highest: torch.Tensor
    positive: torch.Tensor
    lowest: torch.Tensor
    mean: torch.Tensor

    def __add__(self, other: NeuronInfluence) -> NeuronInfluence:
        return NeuronInfluence(*(a + b for a, b in zip(self._parts, other._parts, strict=True)))

    def __truediv__(self, rows: int) -> NeuronInfluence:
        return NeuronInfluence(*(part / rows for part in self._parts))

    @property
    def _parts(self) -> tuple[torch.Tensor, ...]:
        return self.highest, self.positive, self.lowest, self.mean


@dataclass(frozen=True)
class ModelInfluence:
    """All neurons of a model over the rows of a data set.

    Attributes:
        modules: by the name of the linear map, such as "0.self_attn.q_proj".
        rows: of each row `score` (s), `probability` (exp of the mean answer log-probability), `positive` (the sum over
            all neurons of max_k max(A_k, 0)) and `negative` (of min_k min(A_k, 0)).
    """

    modules: dict[str, NeuronInfluence]
    rows: list[dict[str, float]]


def summed_influence(
    influence: torch.Tensor, lengths: torch.Tensor
) -> tuple[NeuronInfluence, torch.Tensor, torch.Tensor]:
    """Aggregate over tokens, and sum over rows.

    Args:
        influence: (rows, tokens, neurons).
        lengths: (rows,), how many tokens of each row count. What follows them (padding, and the answer's last token,
            which predicts nothing) has no influence: its zeros would hide that all influence of a row is negative.

    Returns:
        The sums over rows, and sums over neurons of positive and of negative influence, two tensors (rows,).
    """
    influence = influence.float()
    beyond = (torch.arange(influence.shape[1], device=influence.device) >= lengths[:, None])[..., None]
    highest = influence.masked_fill(beyond, -math.inf).amax(1)
    lowest = influence.masked_fill(beyond, math.inf).amin(1)
    means = influence.masked_fill(beyond, 0.0).sum(1) / lengths[:, None]
    positive = highest.clamp(min=0)
    # Doubles: what batches add up to must not depend on how the rows were divided among them.
    sums = NeuronInfluence(*(part.cpu().double().sum(0) for part in (highest, positive, lowest, means)))
    return sums, positive.sum(1), lowest.clamp(max=0).sum(1)


@torch.enable_grad()
def neuron_influence(
    model: PreTrainedModel, rows: Sequence[EncodedRow], score: str = "log_odds", batch_size: int = 16
) -> ModelInfluence:
    """Run the model forward and backward on the answers of `rows`; no weight gets a gradient.

    Args:
        score: one of `SCORES`, per row: "probability" is exp(mean answer log-probability), "log_probability" that mean
            itself, "log_odds" the mean over answer tokens of log(p / (1 - p)).
        batch_size: rows at once. A batch holds the outputs of all linear maps and their gradients: two numbers for
            each neuron and token.

    Raises:
        InputError: an unknown score, no rows, a linear map that does not see rows and tokens (mixtures of experts), or
            influence that is not finite.
    """
    if score not in SCORES:
        raise InputError(f"score={score!r} is unknown; choose one of {', '.join(SCORES)}")
    if not rows:
        raise InputError("the influence audit needs rows, got none")
    modules, device = linear_modules(model), next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))  # what does not fit fails at once
    sums: dict[str, NeuronInfluence] = {}
    by_row: list[dict[str, float]] = [{}] * len(rows)
    with evaluation_mode(model), _graph_from_embeddings(model):
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            batch = pad_rows([rows[i] for i in numbers], pad_token_id=0)
            batch["roles"] = torch.full((len(numbers),), RETAIN)
            batch = {name: value.to(device) for name, value in batch.items()}
            with capture_outputs(modules) as passes:
                answers = forward_answers(model, batch)
            outputs = passes.pop()
            for name, output in zip(modules, outputs, strict=True):
                if output.shape[:2] != batch["labels"].shape:
                    raise InputError(f"{name} gives a tensor of shape {tuple(output.shape)}, not (rows, tokens, width)")
            scores = _row_scores(answers, score)
            gradients = torch.autograd.grad(scores.sum(), outputs, allow_unused=True, materialize_grads=True)
            lengths = _influential_lengths(batch["labels"])
            positive, negative = torch.zeros_like(scores), torch.zeros_like(scores)
            for name, output, gradient in zip(modules, outputs, gradients, strict=True):
                products = output.detach().float() * gradient.float()
                summed, its_positive, its_negative = summed_influence(products, lengths)
                sums[name] = sums[name] + summed if name in sums else summed
                positive, negative = positive + its_positive, negative + its_negative
            probabilities = (answers.logps / answers.lengths).exp()
            columns = torch.stack([scores, probabilities, positive, negative]).detach().T.tolist()
            for i, values in zip(numbers, columns, strict=True):
                by_row[i] = dict(zip(("score", "probability", "positive", "negative"), values, strict=True))
    if not all(math.isfinite(value) for values in by_row for value in values.values()):
        raise InputError(
            f"{type(model).__name__} has influence that is not finite (dtype {model.dtype}): its weights are broken, "
            "or too large for this type; check them, or load it with dtype=float32"
        )
    return ModelInfluence({name: total / len(rows) for name, total in sums.items()}, by_row)


@contextlib.contextmanager
def _graph_from_embeddings(model: PreTrainedModel) -> Iterator[None]:
    """Within this scope outputs have gradients, whether or not any weight may be trained (quantized ones may not)."""

    def begin(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return output.detach().requires_grad_().clone()  # a clone: some families scale the embedding in place

    hook = model.get_input_embeddings().register_forward_hook(begin)
    try:
        yield
    finally:
        hook.remove()


def _influential_lengths(labels: torch.Tensor) -> torch.Tensor:
    """How many tokens of each row come before its last answer token: (rows, length) -> (rows,)."""
    positions = torch.arange(labels.shape[1], device=labels.device)
    return torch.where(labels != IGNORED, positions, 0).amax(1)


def _row_scores(answers: Answers, score: str) -> torch.Tensor:
    """s of each row, (rows,)."""
    if score == "log_odds":
        return answer_scores(answers, "log_odds")
    means = answer_scores(answers)
    return means.exp() if score == "probability" else means


def influence_variation(before: NeuronInfluence, after: NeuronInfluence) -> tuple[torch.Tensor, torch.Tensor]:
    """D+ (erasure) and D- (hiding) of each neuron, two tensors (neurons,), neither below zero."""
    erased = (before.highest - after.positive).clamp(min=0)
    hidden = (before.lowest - after.lowest).clamp(min=0)
    return erased, hidden


def hiding_share(erased: float, hidden: float) -> float | None:
    """D- / (D+ + D-), in [0, 1]; None where nothing changed."""
    return hidden / (erased + hidden) if erased + hidden > 0 else None


def compare_influence(
    before: ModelInfluence, after: ModelInfluence, top_shares: Sequence[float] = (0.01, 0.05, 1.0)
) -> dict[str, Any]:
    """D+ and D- by linear map and over the whole model, as JSON values.

    Args:
        top_shares: of all neurons: those with the largest D+ and, sorted anew, those with the largest D- are summed.

    Returns:
        `erased`, `hidden` (sums of D+ and of D- over all neurons) and `hiding_share`; `top`: the same of each share,
        with `share` and `neurons` (how many); `modules`: name -> {`erased`, `hidden`, `hiding_share`, `neurons`, and
        `positive_before`, `positive_after`, `negative_before`, `negative_after`: sums over the map's neurons of the
        mean over rows of the highest and of the lowest influence, clamped at zero the other way for `negative`}.

    Raises:
        InputError: the models have other linear maps, or a share is not in (0, 1].
    """
    _check_comparable(before, after)
    if not top_shares or not all(0 < share <= 1 for share in top_shares):
        raise InputError(f"top_shares={list(top_shares)} must be one or more shares of all neurons, over 0 and up to 1")
    modules, all_erased, all_hidden = {}, [], []
    for name, first in before.modules.items():
        second = after.modules[name]
        erased, hidden = influence_variation(first, second)
        all_erased.append(erased)
        all_hidden.append(hidden)
        modules[name] = _sums(erased, hidden) | {"neurons": len(erased)}
        for word, neurons in (("before", first), ("after", second)):
            modules[name][f"positive_{word}"] = float(neurons.positive.sum())
            modules[name][f"negative_{word}"] = float(neurons.lowest.clamp(max=0).sum())
    sides = [torch.cat(parts).sort(descending=True).values for parts in (all_erased, all_hidden)]
    counts = {share: max(1, round(share * len(sides[0]))) for share in top_shares}
    return {
        **_sums(*sides),
        "top": [
            {"share": share, "neurons": count} | _sums(*(side[:count] for side in sides))
            for share, count in counts.items()
        ],
        "modules": modules,
    }


def attribution_correlation(first: ModelInfluence, second: ModelInfluence) -> dict[str, float | None]:
    """Pearson's and Spearman's correlation of the neurons' attributions; None where either model has the same for all.

    Near 1 after an attack: the very neurons that spoke for the answers speak for them again.

    Raises:
        InputError: the models have other linear maps.
    """
    _check_comparable(first, second)
    sides = [torch.cat([neurons.mean for neurons in model.modules.values()]).numpy() for model in (first, second)]
    if any(len(side) < 2 or not side.std() > 0 for side in sides):
        return {"pearson": None, "spearman": None}
    found = {"pearson": pearsonr(*sides), "spearman": spearmanr(*sides)}
    return {name: float(one.statistic) for name, one in found.items()}


def _sums(erased: torch.Tensor, hidden: torch.Tensor) -> dict[str, float | None]:
    sums = {"erased": float(erased.sum()), "hidden": float(hidden.sum())}
    return sums | {"hiding_share": hiding_share(**sums)}


def _check_comparable(first: ModelInfluence, second: ModelInfluence) -> None:
    widths: list[Mapping[str, int]] = [
        {name: len(neurons.mean) for name, neurons in model.modules.items()} for model in (first, second)
    ]
    if widths[0] != widths[1]:
        other = next(name for name in {**widths[0], **widths[1]} if widths[0].get(name) != widths[1].get(name))
        raise InputError(
            f"models of different architecture have no neurons to compare: {other} has "
            f"{widths[0].get(other, 'no')} and {widths[1].get(other, 'no')}"
        )


def _start(inspection: Inspection) -> Measure:
    original: ModelInfluence | None = None

    def measure(name: str, model: PreTrainedModel) -> dict[str, Any]:
        nonlocal original
        influence = neuron_influence(model, inspection.rows, inspection.score, inspection.batch_size)
        if original is None:
            original = influence
            return {"models": _row_values(influence)}
        comparison = compare_influence(original, influence, inspection.top_shares)
        return {"models": _row_values(influence), "comparisons": comparison}

    return measure


def _row_values(influence: ModelInfluence) -> dict[str, dict[str, Any]]:
    """{"score": {"agg_value": mean, "value_by_index": {row: {"score": value}}}, ...}, the format of evaluation logs."""
    return {
        name: {
            "agg_value": fmean(row[name] for row in influence.rows),
            "value_by_index": {str(number): {name: row[name]} for number, row in enumerate(influence.rows)},
        }
        for name in influence.rows[0]
    }


AUDIT = Audit(
    "influence",
    summary="which neurons lost their say about the forgotten answers, and which learned to speak against them",
    sections=("models", "comparisons"),
    start=_start,
)
