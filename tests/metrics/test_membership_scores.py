import math

import numpy as np
import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import (
    gradient_norm_score,
    loss_score,
    min_k_plus_plus_score,
    min_k_score,
    reference_score,
    zlib_score,
)

# A vocabulary with the chances 1/2, 1/4, 1/8, 1/8. In units of log 2: mean -(1/2 + 2/4 + 3/8 + 3/8) = -7/4,
# mean of squares 1/2 + 4/4 + 9/8 + 9/8 = 15/4, variance 15/4 - 49/16 = 11/16.
MEAN = -7 / 4 * math.log(2)
VARIANCE = 11 / 16 * math.log(2) ** 2


def test_loss_score_is_the_average_loss():
    assert loss_score(math.log(64), 3) == pytest.approx(math.log(4), rel=1e-15)
    assert loss_score(0.0, 3) == 0.0


def test_loss_score_of_rows():
    np.testing.assert_array_equal(loss_score([3.0, 1.0], [2, 1]), [1.5, 1.0])


def test_zlib_score_divides_by_the_compressed_bytes():
    # Five literals in deflate's fixed code: 3 + 5 * 8 + 7 bits = 7 bytes, with a header of 2 and a checksum of 4.
    assert zlib_score(26.0, "Paris") == 2.0


def test_zlib_score_counts_utf8_bytes():
    # Six bytes, one under 144 and so of 8 bits, five of 9 bits: 3 + 8 + 5 * 9 + 7 = 63 bits = 8 bytes, and 6 more.
    assert zlib_score(14.0, "北京") == 1.0


def test_zlib_score_is_higher_for_a_repetitive_text():
    assert zlib_score(1.0, "ab" * 50) > zlib_score(1.0, "".join(map(chr, range(33, 126))))


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (0.1, 3),  # int(0.3) = 0, but one token always counts
        (0.4, 3),  # int(1.2) = 1
        (0.7, 2.5),  # int(2.1) = 2: (3 + 2) / 2
        (1, 2),  # (3 + 2 + 1) / 3
    ],
)
def test_min_k_score(k, expected):
    assert min_k_score([-1.0, -3.0, -2.0], k=k) == expected


def test_min_k_score_takes_two_fifths_by_default():
    # int(5 * 0.4) = 2 of 5: (5 + 4) / 2.
    assert min_k_score([-1.0, -2.0, -3.0, -4.0, -5.0]) == 4.5


def test_equal_log_probabilities_at_the_border_are_taken_as_often_as_there_is_room():
    assert min_k_score([-2.0, -1.0, -2.0], k=0.4) == 2.0
    assert min_k_score([-2.0, -1.0, -2.0], k=0.7) == 2.0
    # Two of three count, the lowest and one of the two equal ones: (3 + 2) / 2.
    assert min_k_score([-2.0, -3.0, -2.0], k=0.7) == 2.5


def test_the_share_is_cut_to_whole_tokens_as_in_the_published_code():
    # 100 * 0.29 is 28.999999999999996 in floating point: 28 tokens, so the one of -1 stays out.
    assert min_k_score([-3.0] * 28 + [-1.0] * 72, k=0.29) == 3.0


def test_one_token_is_its_own_minimum():
    assert min_k_score([-0.5]) == 0.5
    assert min_k_plus_plus_score([-0.5], [-1.0], [0.25]) == -1.0


def test_a_certain_answer_scores_zero():
    assert min_k_score([0.0, 0.0, 0.0]) == 0.0


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        # Standardized: (-3 + 7/4) / sqrt(11/16) = -5 / sqrt(11), likewise -1 / sqrt(11) and 3 / sqrt(11).
        (0.4, 5),
        (0.7, 3),  # (5 + 1) / 2
        (1, 1),  # (5 + 1 - 3) / 3
    ],
)
def test_min_k_plus_plus_score(k, expected):
    logps = np.log([1 / 8, 1 / 4, 1 / 2])
    score = min_k_plus_plus_score(logps, [MEAN] * 3, [VARIANCE] * 3, k=k)
    assert score == pytest.approx(expected / math.sqrt(11), rel=1e-13)


def test_min_k_plus_plus_sorts_standardized_values():
    # The token of the lowest log-probability, -4, is at its mean; -1 is two deviations of 1/2 under its own.
    assert min_k_plus_plus_score([-4.0, -1.0], [-4.0, 0.0], [1.0, 0.25], k=0.5) == 2.0


@pytest.mark.parametrize("variance", [1e-6, 1e-9, 0.0, -1e-7])
def test_min_k_plus_plus_clamps_the_variance(variance):
    # sqrt(1e-6) = 1e-3.
    assert min_k_plus_plus_score([-3.0], [-1.0], [variance]) == pytest.approx(2000, rel=1e-12)


def test_min_k_plus_plus_keeps_a_variance_over_the_floor():
    assert min_k_plus_plus_score([-3.0], [-1.0], [4e-6]) == pytest.approx(1000, rel=1e-12)


def test_min_k_plus_plus_takes_two_fifths_by_default():
    logps = [-1.0, -2.0, -3.0, -4.0, -5.0]
    assert min_k_plus_plus_score(logps, [0.0] * 5, [1.0] * 5) == 4.5


def test_gradient_norm_is_the_mean_over_tensors():
    # Not the norm of the whole gradient, sqrt(9 + 16 + 25).
    assert gradient_norm_score([3.0, 4.0, 5.0]) == 4.0


def test_reference_score_is_the_difference_of_average_losses():
    assert reference_score(1.0, 3.0) == -2.0
    assert reference_score(1.5, 1.5) == 0.0
    np.testing.assert_array_equal(reference_score([1.0, 2.0], [0.5, 3.0]), [0.5, -1.0])


def test_every_score_is_lower_for_the_better_known_answer():
    known, unknown = np.log([0.9, 0.8, 0.9]), np.log([0.2, 0.1, 0.3])
    assert min_k_score(known) < min_k_score(unknown)
    assert min_k_plus_plus_score(known, [-1.0] * 3, [1.0] * 3) < min_k_plus_plus_score(unknown, [-1.0] * 3, [1.0] * 3)
    assert loss_score(-known.sum(), 3) < loss_score(-unknown.sum(), 3)
    assert zlib_score(0.1, "Paris") < zlib_score(1.0, "Paris")
    assert reference_score(0.1, 1.0) < reference_score(1.0, 1.0)
    assert gradient_norm_score([0.1]) < gradient_norm_score([1.0])


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda: loss_score(-1.0, 1), r"nll must be.*got -1\.0"),
        (lambda: loss_score(1.0, 0), r"length must be.*>= 1, got 0\.0.*no token"),
        (lambda: loss_score([1.0, 2.0], [1]), r"nll has shape \(2,\) but length has shape \(1,\)"),
        (lambda: zlib_score(-1.0, "Paris"), r"average_loss must be.*got -1\.0"),
        (lambda: zlib_score([1.0], "Paris"), "average_loss must be a single number"),
        (lambda: zlib_score(1.0, None), "text must be a string, got None"),
        (lambda: zlib_score(1.0, " \n"), "text is blank.*drop rows without an answer"),
        (lambda: min_k_score([]), "token_logps is empty.*drop rows whose answer has none"),
        (lambda: min_k_score([-1.0, 0.1]), r"token_logps must be.*<= 0, got 0\.1 at index 1"),
        (lambda: min_k_score([-1.0, -math.inf]), "token_logps must be finite.*got -inf"),
        (lambda: min_k_score([[-1.0]]), "token_logps must be one-dimensional"),
        (lambda: min_k_score([-1.0], k=0), "k is 0, which leaves no token"),
        (lambda: min_k_score([-1.0], k=40), r"k must be.*<= 1, got 40\.0.*such as 0\.4"),
        (lambda: min_k_score([-1.0], k=-0.4), r"k must be.*>= 0.*got -0\.4"),
        (lambda: min_k_plus_plus_score([], [], []), "token_logps is empty"),
        (lambda: min_k_plus_plus_score([1.0], [-1.0], [1.0]), "token_logps must be.*<= 0"),
        (lambda: min_k_plus_plus_score([-1.0], [1.0], [1.0]), r"vocabulary_means must be.*<= 0, got 1\.0"),
        (lambda: min_k_plus_plus_score([-1.0], [-1.0], [math.nan]), "vocabulary_variances must be finite"),
        (
            lambda: min_k_plus_plus_score([-1.0], [-1.0] * 2, [1.0]),
            r"shape \(1,\) but vocabulary_means has .*\(2,\)",
        ),
        (
            lambda: min_k_plus_plus_score([-1.0], [-1.0], [1.0] * 2),
            r"shape \(1,\) but vocabulary_variances has .*\(2,\)",
        ),
        (lambda: min_k_plus_plus_score([-1.0], [-1.0], [1.0], k=2), "k must be"),
        (lambda: gradient_norm_score([]), "parameter_norms is empty"),
        (lambda: gradient_norm_score([1.0, -1.0]), r"parameter_norms must be.*got -1\.0 at index 1"),
        (lambda: gradient_norm_score(1.0), "parameter_norms must be one-dimensional"),
        (lambda: reference_score(-1.0, 1.0), "^average_loss must be"),
        (lambda: reference_score(1.0, -1.0), "^reference_average_loss must be"),
        (lambda: reference_score([1.0], [1.0, 2.0]), r"average_loss has shape \(1,\) but reference_average_loss has"),
    ],
)
def test_scores_reject(score, message):
    with pytest.raises(InputError, match=message):
        score()
