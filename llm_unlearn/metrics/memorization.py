"""How much of an answer the model still puts first, token by token, given the true tokens before."""

import contextlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import checked_samples

_COMPAT_CHOICES = ("open-unlearning",)


def exact_memorization(token_hits: ArrayLike | Sequence[bool], compat: str | None = None) -> float | None:
    """Share of the answer tokens that are the model's most likely next token.

    `token_hits` has shape (tokens,): one bool (or 0 and 1) per token of one answer, the end token included, last. Range
    0 to 1, higher = the answer is better known; 1 = greedy decoding reproduces it, end token and all.

    `compat="open-unlearning"` leaves the last token out, as the published values do, and is None where none is left;
    means leave such rows out.

    Raises InputError for token hits that are empty, not one-dimensional or not 0 or 1, and for an unknown `compat`.
    Source: Tirumala et al., NeurIPS 2022, as in open-unlearning, but with the end token.
    """
    hits = _checked_hits(token_hits, compat)
    return float(hits.mean()) if len(hits) else None


def extraction_strength(token_hits: ArrayLike | Sequence[bool], compat: str | None = None) -> float:
    """1 - k / L, where k is the first of L answer positions from which the whole rest is reproduced.

    `token_hits` as in `exact_memorization`. Range 0 to 1, higher = a shorter part of the answer draws out the rest: 1 =
    the question alone does, 0 = the last token is missed, so nothing is reproduced to the end.

    `compat="open-unlearning"` leaves the last token out and stops at the position before the end, as the published
    values do: of L' = L - 1 tokens, a missed last one gives 1 / L', as if it were reproduced. So an answer of one token
    and the end token scores 1 whether it is known or not, and only a row without a token before the end scores 0.

    Raises InputError for token hits that are empty, not one-dimensional or not 0 or 1, and for an unknown `compat`.
    Source: Carlini et al., USENIX Security 2021, as in open-unlearning, but with the end token and able to reach 0.
    """
    hits = _checked_hits(token_hits, compat)
    if not len(hits):
        return 0.0
    misses = np.flatnonzero(hits == 0)
    first = int(misses[-1]) + 1 if len(misses) else 0
    if compat is not None:
        first = min(first, len(hits) - 1)
    return 1 - first / len(hits)


def _checked_hits(token_hits: ArrayLike | Sequence[bool], compat: str | None) -> np.ndarray:
    """The hits as 0.0 and 1.0, without the end token where `compat` asks for that."""
    if compat is not None and compat not in _COMPAT_CHOICES:
        raise InputError(f"compat {compat!r} is unknown: choose one of {', '.join(_COMPAT_CHOICES)}, or leave it None")
    fix = "pass one bool per answer token, the end token included"
    with contextlib.suppress(ValueError):  # rows of different lengths: the check below names them
        if np.asarray(token_hits).dtype == np.bool_:
            token_hits = np.asarray(token_hits, dtype=np.int8)
    hits = checked_samples("token_hits", token_hits, fix, minimum=0)
    if (wrong := hits[(hits != 0) & (hits != 1)]).size:
        raise InputError(f"token_hits must be 0 or 1, got {wrong[0]}: {fix}")
    return hits if compat is None else hits[:-1]
