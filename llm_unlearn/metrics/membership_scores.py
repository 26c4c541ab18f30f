"""What six membership attacks measure on one row, each signed like a loss: lower = more likely a member.

`membership_auc` turns the scores of forget and holdout rows into the attack's success. The published values of min-k,
min-k++ and gradient norm leave the end token out, those of loss, zlib and reference average over it as well.
"""

import zlib

import numpy as np
from numpy.typing import ArrayLike

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import checked_number, checked_numbers, checked_samples, checked_text

_TOKENS_FIX = "pass one log-probability per answer token, and drop rows whose answer has none"
_LOSS_FIX = "pass the average negative log-likelihood per answer token"
_VARIANCE_FLOOR = 1e-6  # of open-unlearning


def loss_score(nll: ArrayLike, length: ArrayLike) -> np.ndarray | float:
    """Average loss of an answer, nll / length.

    `nll` is the *sum* of the negative log-likelihoods of the answer tokens and `length` their number; both a number or
    both of shape (rows,). Returns the same shape. Range 0 up, lower = more likely a member.

    Raises InputError for an nll that is negative or not finite, a length under 1, or different row counts.
    Source: Yeom et al., CSF 2018; mia_loss of open-unlearning.
    """
    losses = checked_numbers("nll", nll, "pass the summed negative log-likelihood of the answer", minimum=0)
    lengths = checked_numbers("length", length, "drop rows whose answer has no token", minimum=1)
    _check_same_shape("nll", losses, "length", lengths)
    return losses / lengths


def zlib_score(average_loss: float, text: str) -> float:
    """Average loss of an answer over the length in bytes of its zlib-compressed text (UTF-8, default level).

    `average_loss` is a number as `loss_score` gives it, `text` the decoded answer without special tokens. Range 0 up,
    lower = more likely a member: a low loss that a repetitive text would not explain.

    Raises InputError for a loss that is negative or not finite, and for a text that is not a string or is blank.
    Source: Carlini et al., USENIX Security 2021; mia_zlib of open-unlearning.
    """
    loss = checked_number("average_loss", average_loss, _LOSS_FIX, minimum=0)
    if not checked_text("text", text, "pass the decoded answer").strip():
        raise InputError(f"text is blank ({text!r}): drop rows without an answer")
    return loss / len(zlib.compress(text.encode("utf-8")))


def min_k_score(token_logps: ArrayLike, k: float = 0.4) -> float:
    """Mean negative log-probability of the share `k` of answer tokens that the model finds least likely.

    `token_logps` has shape (tokens,); int(k * tokens) of them count, at least one. Range 0 up, lower = more likely a
    member. The end token is not among the tokens of the published values.

    Raises InputError for log-probabilities that are empty (open-unlearning scores such a row 0, the strongest sign of
    membership), over 0 or not finite, and for a `k` outside 0 to 1 or equal to 0.
    Source: Min-K% Prob, arXiv 2310.16789; mia_min_k of open-unlearning, k = 0.4 of its TOFU evaluation.
    """
    return _mean_of_lowest(_checked_logps(token_logps), k)


def min_k_plus_plus_score(
    token_logps: ArrayLike, vocabulary_means: ArrayLike, vocabulary_variances: ArrayLike, k: float = 0.4
) -> float:
    """`min_k_score` of standardized log-probabilities, (logp - mean) / sqrt(max(variance, 1e-6)).

    All three have shape (tokens,). Mean and variance are those of the log-probability of a token that the model itself
    draws at this position: sum p log p and sum p (log p)^2 - mean^2 over the vocabulary. A variance that rounding left
    negative is fine, it counts as 1e-6. Range unbounded, lower = more likely a member.

    Raises InputError like `min_k_score`, for means over 0, and for different token counts.
    Source: Min-K%++, arXiv 2404.02936; mia_min_k_plus_plus of open-unlearning.
    """
    logps = _checked_logps(token_logps)
    fix = "pass one value per answer token"
    means = checked_numbers("vocabulary_means", vocabulary_means, fix, maximum=0)
    variances = checked_numbers("vocabulary_variances", vocabulary_variances, fix)
    _check_same_shape("token_logps", logps, "vocabulary_means", means)
    _check_same_shape("token_logps", logps, "vocabulary_variances", variances)
    return _mean_of_lowest((logps - means) / np.sqrt(np.maximum(variances, _VARIANCE_FLOOR)), k)


def gradient_norm_score(parameter_norms: ArrayLike) -> float:
    """Mean over parameter tensors of the 2-norm of the loss's gradient: open-unlearning's definition.

    `parameter_norms` has shape (tensors,): the norm of each tensor that has a gradient, of the average loss of one
    answer. This is not the norm of the whole gradient, and it depends on how a model splits its weights into tensors.
    Range 0 up, lower = more likely a member.

    Raises InputError for norms that are empty, negative or not finite.
    Source: arXiv 2402.17012; mia_gradnorm of open-unlearning with its TOFU setting p = 2.
    """
    fix = "pass one gradient norm per parameter tensor"
    return float(checked_samples("parameter_norms", parameter_norms, fix, minimum=0).mean())


def reference_score(average_loss: ArrayLike, reference_average_loss: ArrayLike) -> np.ndarray | float:
    """Average loss of an answer minus its average loss under a reference model.

    Both a number or both of shape (rows,), as `loss_score` gives them. Returns the same shape. Range unbounded, lower =
    more likely a member: the tested model knows the answer better than the reference does.

    Raises InputError for losses that are negative or not finite, and for different row counts.
    Source: Carlini et al., USENIX Security 2021; mia_reference of open-unlearning.
    """
    tested = checked_numbers("average_loss", average_loss, _LOSS_FIX, minimum=0)
    reference = checked_numbers("reference_average_loss", reference_average_loss, _LOSS_FIX, minimum=0)
    _check_same_shape("average_loss", tested, "reference_average_loss", reference)
    return tested - reference


def _checked_logps(token_logps: ArrayLike) -> np.ndarray:
    logps = checked_samples("token_logps", token_logps, _TOKENS_FIX)
    return checked_numbers("token_logps", logps, _TOKENS_FIX, maximum=0)


def _mean_of_lowest(scores: np.ndarray, k: float) -> float:
    fix = "pass the share of tokens that count, such as 0.4"
    share = checked_number("k", k, fix, minimum=0, maximum=1)
    if share == 0:
        raise InputError(f"k is 0, which leaves no token: {fix}")
    return float(-np.sort(scores)[: max(1, int(len(scores) * share))].mean())


def _check_same_shape(name: str, array: np.ndarray, other_name: str, other: np.ndarray) -> None:
    if array.shape != other.shape:
        raise InputError(
            f"{name} has shape {array.shape} but {other_name} has shape {other.shape}: pass one {other_name} for each "
            f"{name}"
        )
