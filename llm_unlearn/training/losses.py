"""Forget and retain losses as pure tensor functions (no model, no trainer).

`token_logps` are log-probabilities of answer tokens given everything before them, shape (tokens,); `answer_logps` are
their sums per row, shape (rows,). Every function takes `reduction`: "mean" for the mean, "none" for one value per token
or row, which is what the trainer uses to take the mean over the *global* batch (all accumulation steps, all processes).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from llm_unlearn.models.answers import Answers


COMPARING_LOSSES = ("kl", "hidden_states")  # kinds of `keeping_loss` that need the model before training


def nll_loss(token_logps: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Negative log-likelihood per answer token: ordinary supervised cross-entropy."""
    return _reduce(-token_logps, reduction)


def gradient_ascent_loss(token_logps: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Negated cross-entropy per answer token, so that minimizing it raises the loss on forget answers.

    Source: Jang et al. 2023, arXiv 2210.01504. Unbounded below: training must be stopped.
    """
    return _reduce(token_logps, reduction)


def npo_loss(
    answer_logps: torch.Tensor, reference_logps: torch.Tensor, beta: float = 0.1, reduction: str = "mean"
) -> torch.Tensor:
    """Negative preference optimization: -(2/beta) log sigmoid(beta (nll - nll_reference)) per row.

    `answer_logps` and `reference_logps` are *sums* over the answer, shape (rows,). At the reference the loss is
    (2/beta) ln 2 (13.862944 for beta = 0.1); for beta -> 0 its gradient tends to gradient ascent's.

    Source: Zhang et al. 2024, arXiv 2404.05868, eq. 3 (beta 0.1 to 0.5).
    """
    return _reduce(-2.0 / beta * F.logsigmoid(beta * (reference_logps - answer_logps)), reduction)


def dpo_loss(
    margins: torch.Tensor, reference_margins: torch.Tensor, beta: float = 0.1, reduction: str = "mean"
) -> torch.Tensor:
    """Direct preference optimization: -(2/beta) log sigmoid(beta (margin - reference margin)) per row.

    A margin is the log-probability of the alternate answer minus that of the forgotten one, both *sums* over the
    answer, shape (rows,). At the reference the loss is (2/beta) ln 2.

    Source: Rafailov et al. 2023, arXiv 2305.18290, eq. 7, times 2/beta as NPO (`npo_loss`) has it, so that the two can
    be compared.
    """
    return _reduce(-2.0 / beta * F.logsigmoid(beta * (margins - reference_margins)), reduction)


def simnpo_loss(
    answer_logps: torch.Tensor,
    lengths: torch.Tensor,
    beta: float = 4.5,
    delta: float = 0.0,
    reduction: str = "mean",
) -> torch.Tensor:
    """NPO per token and without a reference: -(2/beta) log sigmoid(beta (nll / T - delta)) per row.

    `answer_logps` are sums over the answers, `lengths` their numbers of tokens T; both have shape (rows,).

    Source: Fan et al. 2024, arXiv 2410.07163, eq. 4 with a margin delta (gamma there).
    """
    return _reduce(-2.0 / beta * F.logsigmoid(beta * (-answer_logps / lengths - delta)), reduction)


def weighted_ascent_loss(
    token_logps: torch.Tensor, saturation: float = 1.0, importance: float = 0.0, reduction: str = "mean"
) -> torch.Tensor:
    """Gradient ascent per answer token with weight p^saturation (1 - p)^importance, a constant: (tokens,).

    Source: WGA, Wang et al. 2025, arXiv 2502.19301 (importance 0); SatImp, Yang et al. 2025, arXiv 2505.11953.
    """
    probabilities = token_logps.detach().exp()
    return _reduce(probabilities**saturation * (1 - probabilities) ** importance * token_logps, reduction)


def adjusted_distillation_loss(
    logits: torch.Tensor,
    reference_logits: torch.Tensor,
    labels: torch.Tensor,
    beta: float = 10.0,
    reduction: str = "mean",
) -> torch.Tensor:
    """Cross-entropy per answer token against softmax(reference_logits - beta onehot(label)).

    Both logits have shape (tokens, vocabulary), `labels` (tokens,).

    Source: UNDIAL, Dong et al. 2024, arXiv 2402.10052.
    """
    by = torch.full_like(labels[:, None], -beta, dtype=torch.float32)
    lowered = reference_logits.float().scatter_add(1, labels[:, None], by)
    return _reduce(F.cross_entropy(logits.float(), lowered.softmax(-1), reduction="none"), reduction)


def cross_entropy_without_label(logits: torch.Tensor, labels: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Cross-entropy per answer token against the model's own distribution, a constant, without the true token.

    `logits` have shape (tokens, vocabulary), `labels` (tokens,).

    Source: CE-U, Yang 2025, arXiv 2503.01224.
    """
    others = logits.detach().float().scatter(1, labels[:, None], -torch.inf)
    return _reduce(F.cross_entropy(logits.float(), others.softmax(-1), reduction="none"), reduction)


def uniform_kl_loss(logits: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """KL(model || uniform) per answer token, in nats: log V less the entropy; `logits` are (tokens, vocabulary).

    Source: maximum entropy, Yuan et al. 2024, arXiv 2410.08109.
    """
    logps = logits.float().log_softmax(-1)
    return _reduce((logps.exp() * logps).sum(-1) + math.log(logits.shape[-1]), reduction)


def logit_margin_loss(logits: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """(max logit - mean logit)^2 per answer token; `logits` are (tokens, vocabulary).

    Source: PDU, Entesari et al. 2025, arXiv 2506.05314.
    """
    logits = logits.float()
    return _reduce((logits.amax(-1) - logits.mean(-1)).square(), reduction)


def kl_loss(logits: torch.Tensor, reference_logits: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """KL(reference || model) per answer token; both logits have shape (tokens, vocabulary)."""
    logps, reference_logps = logits.float().log_softmax(-1), reference_logits.float().log_softmax(-1)
    divergence = F.kl_div(logps, reference_logps, reduction="none", log_target=True).sum(-1)
    return _reduce(divergence, reduction)


def hidden_states_loss(states: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Mean squared difference over the width, per token; both have shape (tokens, width), in float32 or better."""
    difference = states.to(torch.promote_types(states.dtype, torch.float32)) - targets
    return _reduce(difference.square().mean(-1), reduction)


def keeping_loss(part: Answers, kind: str) -> torch.Tensor:
    """Cross-entropy, or how far the model's logits (`kind` "kl") or its hidden states ("hidden_states", summed over the
    method's layers) are from what they were: one value per answer token.
    """
    if kind == "hidden_states":
        before = part.reference_hidden_states
        return sum(hidden_states_loss(now, before[layer], "none") for layer, now in part.hidden_states.items())
    if kind == "kl":
        return kl_loss(part.logits, part.reference_logits, reduction="none")
    return nll_loss(part.token_logps, reduction="none")


def global_mean(values: torch.Tensor, part: Answers, counts: torch.Tensor, per_token: bool = False) -> torch.Tensor:
    """This micro-batch's share of the mean over the global batch; `counts` holds its rows and tokens.

    Args:
        per_token: what values are where there are as many rows as tokens; else their number says it.
    """
    rows, tokens = len(part.roles), len(part.labels)
    if rows == 0 and values.dim() == 0:  # only filler: the method's mean over nothing is NaN, and would be everywhere
        return part.token_logps.sum()
    if rows == 0:  # a sum over nothing, whose backward takes the same way through the model as other processes' do
        return values.sum()
    if values.dim() == 0:  # a method that took its own mean: weighted by its rows
        return values * rows / counts[0]
    if len(values) == rows and not (per_token and rows == tokens):
        return values.sum() / counts[0]
    if len(values) == tokens:
        return values.sum() / counts[1]
    raise ValueError(f"a loss has {len(values)} values for {rows} rows and {tokens} answer tokens; give one per either")


def _reduce(values: torch.Tensor, reduction: str) -> torch.Tensor:
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction={reduction!r} is unknown; use 'mean' or 'none'")
    return values.mean() if reduction == "mean" else values
