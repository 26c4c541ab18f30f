"""Probability of an answer, per token and against wrong options."""

import numpy as np
from numpy.typing import ArrayLike

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import EPSILON, check_alternatives, checked_numbers


def probability(nll: ArrayLike, length: ArrayLike) -> np.ndarray | float:
    """Length-normalized probability of an answer, exp(-nll / length): the geometric mean over its tokens.

    `nll` is the *sum* of the negative log-likelihoods of the answer tokens and `length` their number; both a number or
    both of shape (rows,). Returns the same shape. Range 0 to 1, higher = the answer is better known.

    Raises InputError for an nll that is negative or not finite, a length under 1, or different row counts.
    Source: TOFU, arXiv 2401.06121; "prob" in open-unlearning's logs.
    """
    nll_array = checked_numbers(
        "nll", nll, "pass the summed negative log-likelihood of the answer, not a log-probability", minimum=0
    )
    length_array = checked_numbers("length", length, "drop rows whose answer has no token", minimum=1)
    if nll_array.shape != length_array.shape:
        raise InputError(
            f"nll has shape {nll_array.shape} but length has shape {length_array.shape}: pass one length per answer"
        )
    return np.exp(-nll_array / length_array)


def probability_with_options(correct: ArrayLike, wrong: ArrayLike) -> np.ndarray | float:
    """Probability of the correct answer among given options, p / (p + sum of wrong + 1e-10).

    `correct` is a number or has shape (rows,); `wrong` has one more axis that runs over the wrong answers. All are
    length-normalized probabilities (see `probability`). Returns the shape of `correct`. Range 0 to 1, higher = the
    correct answer is preferred; with k equally likely wrong answers 1 / (k + 1).

    Raises InputError for values outside 0 to 1 or different row counts.
    Source: TOFU, arXiv 2401.06121; "Prob_normalised" in open-unlearning's logs.
    """
    fix = "pass length-normalized probabilities between 0 and 1"
    correct_array = checked_numbers("correct", correct, fix, minimum=0, maximum=1)
    wrong_array = checked_numbers("wrong", wrong, fix, minimum=0, maximum=1)
    check_alternatives("wrong", wrong_array, "correct", correct_array)
    return correct_array / (correct_array + wrong_array.sum(axis=-1) + EPSILON)
