"""Neuron influence: capture, attribute, regularize.

A neuron is one scalar of the output of a linear map inside a transformer block (Q, K, V, O, gate, up, down or the
family's equivalents, found by structure). Its influence on a row is A = h * g, with h its output and g the gradient of
the row's mean answer log-probability with respect to h: positive where the neuron speaks for the answer, negative
where it suppresses it.

Source: Yang et al., "Erase or Hide?", arXiv 2509.22263, with the log-probability in place of the probability, which is
almost constant (and so has no gradient) on a memorized answer and again on a forgotten one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from llm_unlearn.models.answers import Answers

Pair = tuple[torch.Tensor, torch.Tensor]  # (h, g), both (rows, length, width)


@contextlib.contextmanager
def capture_outputs(modules: Mapping[str, nn.Module]) -> Iterator[list[list[torch.Tensor]]]:
    """Within this scope, the outputs of `modules` are kept: one list, in their order, per pass through the model.

    Take the list right after the forward: under activation checkpointing the hooks fire again on recomputation. Holds
    one tensor (rows, length, width) per linear map, all of which the ordinary backward keeps anyway; under activation
    checkpointing it would not, and fewer modules bound what is kept then.

    Args:
        modules: what `linear_modules` found; each must run once in a pass.
    """
    passes: list[list[torch.Tensor]] = []

    def keep(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        if not passes or len(passes[-1]) == len(modules):
            passes.append([])
        passes[-1].append(output)

    hooks = [module.register_forward_hook(keep) for module in modules.values()]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def capture_inputs(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Within this scope, the first inputs of `module` are kept, one per pass, as its own pre-hooks left them."""
    inputs: list[torch.Tensor] = []
    hook = module.register_forward_hook(lambda _module, arguments, _output: inputs.append(arguments[0]))
    try:
        yield inputs
    finally:
        hook.remove()


def answer_scores(answers: Answers, influence_of: str = "log_probability") -> torch.Tensor:
    """What neurons have influence on, one value per row, (rows,).

    Args:
        influence_of: "log_probability" (mean over the answer's tokens), "log_odds" (mean over them of log(p / (1 - p)),
            which has a gradient also where p is near 1) or "probability" (of the whole answer, as published).
    """
    if influence_of == "probability":
        return answers.logps.exp()
    if influence_of == "log_probability":
        return answers.logps / answers.lengths
    logits = answers.logits.to(answers.token_logps.dtype)
    others = logits.scatter(1, answers.labels[:, None], -torch.inf).logsumexp(-1)
    odds = logits.gather(1, answers.labels[:, None])[:, 0] - others
    sums = odds.new_zeros(len(answers.roles)).index_add(0, answers.token_rows, answers.weighted(odds))
    return sums / answers.lengths


def influence(
    answers: Answers,
    outputs: list[torch.Tensor],
    influence_of: str = "log_probability",
    second_derivative: bool = False,
) -> list[Pair]:
    """Pairs (h, g) for every captured output that the parameters can change; both have the output's shape.

    `answers` are those of the rows that were captured. g is the gradient of the *sum* over rows of `answer_scores`, so
    each row of g belongs to that row alone.

    Args:
        second_derivative: keep g differentiable; by default it is a constant.
    """
    return gradient_pairs(answer_scores(answers, influence_of).sum(), outputs, second_derivative)


def gradient_pairs(total: torch.Tensor, outputs: list[torch.Tensor], second_derivative: bool = False) -> list[Pair]:
    """Every output that the parameters can change, with d total / d output."""
    outputs = [output for output in outputs if output.requires_grad]
    gradients = torch.autograd.grad(total, outputs, retain_graph=True, create_graph=second_derivative)
    return list(zip(outputs, gradients, strict=True))


def negative_influence_penalty(pairs: list[Pair], token_aggregation: str = "all") -> torch.Tensor:
    """Sum over neurons of relu(-A)^2 for each row, (rows,): what hiding adds and erasing does not.

    Args:
        token_aggregation: of A = h g over the positions of a row: "all" (every position counts on its own),
            "minimum" (a neuron's most negative position, as in the publication's analysis) or "sum".
    """

    def penalty(h: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        if token_aggregation == "all" and not g.requires_grad:
            return _SquaredNegativeInfluence.apply(h, g)
        products = _products(h, g)
        if token_aggregation == "minimum":
            products = products.amin(1)
        elif token_aggregation == "sum":
            products = products.sum(1)
        return (torch.relu(-products) ** 2).flatten(1).sum(1)

    return sum(penalty(h, g) for h, g in pairs)


class KnownGradient(torch.autograd.Function):
    """`values` (n,) as functions of the rows of `inputs` (n, width), whose gradients (n, width) are known already."""

    @staticmethod
    def forward(ctx, inputs: torch.Tensor, values: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gradients)
        return values.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return gradient[:, None].to(gradients.dtype) * gradients, None, None


class _SquaredNegativeInfluence(torch.autograd.Function):
    """Sum of relu(-h g)^2 over all but rows, with g a constant: one product over the activations, and one kept tensor.

    Left to autograd, the same would read and write them five times and keep three.
    """

    @staticmethod
    def forward(ctx, h: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        negative = _products(h, g).clamp_(max=0)
        values = torch.linalg.vector_norm(negative.flatten(1), dim=1, dtype=_precise(h)).square()
        ctx.save_for_backward(negative.mul_(g).to(h.dtype))
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (half,) = ctx.saved_tensors
        return half * (2 * gradient).to(half.dtype)[:, None, None], None


def _products(h: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """A; in single precision where half has not the range for products of small numbers."""
    return h.float() * g.float() if h.dtype == torch.float16 else h * g


def _precise(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def squared_pulls(
    pairs: list[Pair],
    regularized: list[Pair],
    token_aggregation: str,
    forget: Answers,
    forget_loss: torch.Tensor,
    rows: torch.Tensor,
) -> torch.Tensor:
    """How strongly the penalty and the forget loss pull at the neurons' outputs: |dR/dh|^2 and |d forget_loss/dh|^2.

    Both are sums over rows, so that those of micro-batches add up to those of the whole batch. They cost no pass
    through the model: the forget loss pulls at h by g times a factor per row.

    Args:
        pairs: (h, g) with g of the mean answer log-probability.
        regularized: the pairs that R, the mean of `negative_influence_penalty` over rows, is taken of.
        forget: the rows' answers.
        forget_loss: these rows' share of the loss; the same for all tokens of a row.
        rows: over how many rows R is a mean.

    Returns:
        (2,), float32 or better.
    """
    outputs = [h.detach().requires_grad_() for h, _ in regularized]
    constants = [g.detach() for _, g in regularized]
    (by_token,) = torch.autograd.grad(forget_loss, forget.token_logps, retain_graph=True)
    by_row = by_token.new_zeros(len(forget.roles)).index_add(0, forget.token_rows, by_token)
    squares = by_row.new_zeros(2)
    if not pairs:
        return squares
    penalty = negative_influence_penalty(list(zip(outputs, constants, strict=True)), token_aggregation).sum() / rows
    for pull in torch.autograd.grad(penalty, outputs):
        squares[0] += torch.linalg.vector_norm(pull, dtype=squares.dtype).square()
    for _, g in pairs:
        by_map = torch.linalg.vector_norm(g.detach().flatten(1), dim=1, dtype=squares.dtype)
        squares[1] += (by_map * by_row).square().sum()
    return squares


def chosen_pairs(pairs: list[Pair], attribution: str, seed: int) -> list[Pair]:
    """The pairs whose negative influence is regularized: "negative" as they are, or one of the controls below."""
    match attribution:
        case "shuffled":
            return shuffled_gradients(pairs, seed)
        case "random":
            return random_signs(pairs, seed)
        case "positive":
            return opposite(pairs)
        case "both":
            return pairs + opposite(pairs)
        case "activity":
            pairs = without_attribution(pairs)
            return pairs + opposite(pairs)
        case _:
            return pairs


def shuffled_gradients(pairs: list[Pair], seed: int) -> list[Pair]:
    """The pairs with g permuted over the neurons of each linear map: a control of the same size, about other neurons.

    Args:
        seed: with it, the permutations are the same in every step.
    """
    generator = torch.Generator().manual_seed(seed)
    return [(h, g[..., torch.randperm(g.shape[-1], generator=generator).to(g.device)]) for h, g in pairs]


def random_signs(pairs: list[Pair], seed: int) -> list[Pair]:
    """The pairs with A's sign drawn at random, as many negative as there were: a random mask in place of the sign's.

    Which neurons of which rows and positions have negative influence is permuted over the neurons of each linear map,
    while |A| stays where it is.

    Args:
        seed: with it, the permutations are the same in every step.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for h, g in pairs:
        order = torch.randperm(g.shape[-1], generator=generator).to(g.device)
        sign = (h * g).sign().detach()
        drawn.append((h, g * sign * sign[..., order]))
    return drawn


def opposite(pairs: list[Pair]) -> list[Pair]:
    """The pairs with every influence of the other sign."""
    return [(h, -g) for h, g in pairs]


def without_attribution(pairs: list[Pair]) -> list[Pair]:
    """The pairs with |g| the same for all neurons and positions of a linear map in a row: its root mean square there.

    What is left of the influence is how active a neuron is: a control that knows which rows count, but no neuron.
    """
    return [(h, g.square().mean((1, 2), keepdim=True).sqrt().expand_as(g)) for h, g in pairs]


@torch.no_grad()
def influence_sums(pairs: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of positive and of negative influence over neurons and positions for each row: two tensors (rows,)."""
    positive, negative = 0.0, 0.0
    for h, g in pairs:
        products = _products(h, g)
        total = products.sum((1, 2), dtype=_precise(h))
        below = products.clamp_(max=0).sum((1, 2), dtype=_precise(h))
        positive, negative = positive + total - below, negative + below
    return positive, negative
