"""The unlearning depth score, by hand."""

import numpy as np
import pytest

from llm_unlearn.metrics.depth import depth_scores


def test_scores_are_weighted_by_what_the_oracle_takes_away():
    reference = np.array([[1.0, 0.04], [3.0, 0.05], [0.01, 0.0]])  # the second row has no block over 0.05
    scores = depth_scores(reference, np.array([[0.5, 9], [4.0, 9], [9, 9]]))
    assert scores[0] == pytest.approx((0.5 + 3) / 4) and np.isnan(scores[1])  # more than the oracle's counts as its own
    assert depth_scores(reference, np.array([[-1.0, 0], [1.5, 0], [9, 0]]))[0] == pytest.approx(1.5 / 4)  # as does none
    assert depth_scores(reference, 0 * reference)[0] == 0 and depth_scores(reference, reference)[0] == 1
    assert depth_scores(reference, 0.5 * reference, threshold=0.005).tolist() == [0.5, 0.5]
