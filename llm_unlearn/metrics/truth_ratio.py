"""How a model ranks the true answer against false ones of the same form, and what follows from it."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp

from llm_unlearn.metrics._checks import EPSILON, check_alternatives, checked_numbers, checked_samples

_RATIO_FIX = "pass the per-row values of truth_ratio"


def truth_ratio(correct_losses: ArrayLike, perturbed_losses: ArrayLike) -> np.ndarray | float:
    """exp(-mean perturbed loss) / (exp(-correct loss) + 1e-10): false answers over the true one, per row.

    `correct_losses` is a number or has shape (rows,), `perturbed_losses` has one more axis that runs over the perturbed
    answers; both are losses averaged over answer tokens. The mean of losses makes the numerator a geometric mean of
    probabilities. The true answer is the paraphrased one on forget and retain rows, the plain one on real authors and
    world facts. Returns the shape of `correct_losses`. Range 0 to 1e10: under 1 the true answer is preferred, 1 (up to
    the 1e-10) means no preference, over 1 a false one is preferred.

    Raises InputError for losses that are negative or not finite, or different row counts.
    Source: TOFU, arXiv 2401.06121; epsilon and averaging of open-unlearning.
    """
    fix = "pass average negative log-likelihoods per answer token"
    correct = checked_numbers("correct_losses", correct_losses, fix, minimum=0)
    perturbed = checked_numbers("perturbed_losses", perturbed_losses, fix, minimum=0)
    check_alternatives("perturbed_losses", perturbed, "correct_losses", correct)
    return np.exp(-perturbed.mean(axis=-1)) / (np.exp(-correct) + EPSILON)


def forget_truth_ratio(ratios: ArrayLike) -> float:
    """Aggregate for forget rows: mean of min(r, 1 / (r + 1e-10)) over `ratios`, shape (rows,).

    Range 0 to 1, higher = the model tells true from false less well. 1 is not the target: the
    published Llama-3.2-1B that never saw forget10 is at 0.63, so compare with the oracle.

    Raises InputError for ratios that are empty, negative or not finite.
    Source: "closer_to_1_better" of open-unlearning.
    """
    array = checked_samples("ratios", ratios, _RATIO_FIX, minimum=0)
    return float(np.minimum(array, 1 / (array + EPSILON)).mean())


def utility_truth_ratio(ratios: ArrayLike) -> float:
    """Aggregate for rows that must stay known: mean of max(0, 1 - r) over `ratios`, shape (rows,).

    Range 0 to 1, higher = the true answer is preferred more clearly.

    Raises InputError for ratios that are empty, negative or not finite.
    Source: TOFU, arXiv 2401.06121; "true_better" of open-unlearning.
    """
    array = checked_samples("ratios", ratios, _RATIO_FIX, minimum=0)
    return float(np.maximum(0, 1 - array).mean())


def forget_quality(ratios: ArrayLike, retain_ratios: ArrayLike) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test between truth ratios on the forget rows.

    `ratios` come from the tested model and `retain_ratios` from a model trained without the forget rows; shapes (rows,)
    and (retain rows,), which may differ. Range 0 to 1, higher = less evidence that the two models differ
    on the forget rows; a high value is a failure to reject, not proof of erasure.

    Raises InputError for ratios that are empty, negative or not finite.
    Source: TOFU, arXiv 2401.06121.
    """
    array = checked_samples("ratios", ratios, _RATIO_FIX, minimum=0)
    retain_array = checked_samples("retain_ratios", retain_ratios, _RATIO_FIX, minimum=0)
    return float(ks_2samp(array, retain_array).pvalue)
