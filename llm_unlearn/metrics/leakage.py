"""What sampling would say that greedy decoding does not, exact and without sampling."""

import numpy as np
from numpy.typing import ArrayLike

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import checked_number, checked_numbers


def leak_at_k(nll: ArrayLike, k: int) -> np.ndarray | float:
    """Chance that at least one of `k` samples is the answer, 1 - (1 - P)^k with P = exp(-nll).

    `nll` is the *sum* of the negative log-likelihoods of the answer tokens, the end token included (without it, longer
    answers that begin alike count too); a number or of shape (rows,). Returns the same shape. Samples are drawn at
    temperature 1 from the whole vocabulary; only the answer itself counts, token by token, so this is a lower bound on
    what a paraphrase-tolerant judge would find. Range 0 to 1, higher = more leaks. Exact for tiny P and large k, where
    the formula as written would round to 0.

    Raises InputError for an nll that is empty, negative or not finite, and for a `k` that is not a whole number >= 1.
    Source: arXiv 2511.04934, with the exact match as the judge and the expectation in closed form.
    """
    losses = checked_numbers(
        "nll", nll, "pass the summed negative log-likelihood of the answer, not a log-probability", minimum=0
    )
    fix = "pass the number of samples"
    samples = checked_number("k", k, fix, minimum=1)
    if not samples.is_integer():
        raise InputError(f"k must be a whole number, got {k!r}: {fix}")
    with np.errstate(divide="ignore"):  # log(0) = -inf where the answer is certain is meant
        return -np.expm1(samples * np.log1p(-np.exp(-losses)))
