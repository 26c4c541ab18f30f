"""Whether forget rows can be told from rows that were never trained on."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import EPSILON, checked_number, checked_samples


def membership_auc(forget_scores: ArrayLike, holdout_scores: ArrayLike) -> float:
    """Area under the ROC curve of telling forget rows (members) from holdout rows by a score, lower = member.

    This is the chance that a forget row scores under a holdout row, ties counting half. Scores are losses or behave
    like losses; shapes (rows,) and (holdout rows,), which may differ. Range 0 to 1: 0.5 = indistinguishable, near 1 =
    forget rows look trained on, under 0.5 = they look less familiar than rows that were never seen.

    Raises InputError for scores that are empty or not finite.
    Source: "auc" of the mia_* entries in open-unlearning's logs.
    """
    fix = "pass one attack score per row"
    forget = checked_samples("forget_scores", forget_scores, fix)
    holdout = checked_samples("holdout_scores", holdout_scores, fix)
    holdout_ranks = rankdata(np.concatenate([forget, holdout]))[len(forget) :]
    forget_rows_below = holdout_ranks.sum() - len(holdout) * (len(holdout) + 1) / 2
    return float(forget_rows_below / (len(forget) * len(holdout)))


def privleak(auc: float, reference_auc: float = 0.5) -> float:
    """Relative distance of a membership AUC from a retrained model's, in percent: 100 (a - b) / (b + 1e-10).

    Here a = 1 - `auc` and b = 1 - `reference_auc`; both AUCs as `membership_auc` gives them, `reference_auc` from the
    model trained without the forget rows (0.5 where there is none). Range -100 up: 0 = like the retrained model,
    negative = forget rows still look trained on, positive = over-unlearned. MUSE takes its AUC the other way round,
    hence 1 - auc; published TOFU values use the mia_min_k AUC.

    Raises InputError for AUCs outside 0 to 1, and for a reference AUC of 1, where no relative distance exists.
    Source: MUSE, arXiv 2407.06460, in the form of open-unlearning.
    """
    fix = "pass an area under the ROC curve between 0 and 1, not a percentage"
    tested = checked_number("auc", auc, fix, minimum=0, maximum=1)
    reference = checked_number("reference_auc", reference_auc, fix, minimum=0, maximum=1)
    if reference == 1:
        raise InputError(
            "reference_auc is 1.0, which leaves the relative distance no denominator: take it from a model that never "
            "saw the forget rows, or leave the default 0.5"
        )
    return 100 * ((1 - tested) - (1 - reference)) / (1 - reference + EPSILON)
