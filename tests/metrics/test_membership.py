import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import membership_auc, privleak


@pytest.mark.parametrize(
    ("forget", "holdout", "expected"),
    [
        ([0.1, 0.2], [1.0, 2.0], 1.0),
        ([1.0, 2.0], [0.1, 0.2], 0.0),
        ([1.0, 1.0], [1.0, 1.0, 1.0], 0.5),
        # Pairs (forget < holdout): 1 < 2, 1 < 3, 3 = 3 counts half, 3 > 2: 2.5 of 4.
        ([1.0, 3.0], [2.0, 3.0], 0.625),
        # Different row counts: 2 < 3 of (2 > 1, 2 < 3, 2 < 4).
        ([2.0], [1.0, 3.0, 4.0], 2 / 3),
        ([-2.0], [-1.0], 1.0),
    ],
)
def test_membership_auc(forget, holdout, expected):
    assert membership_auc(forget, holdout) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("forget", "holdout", "message"),
    [
        ([float("nan")], [1.0], "forget_scores must be finite"),
        ([1.0], [1.0, float("inf")], "holdout_scores must be finite, got inf at index 1"),
        ([], [1.0], "forget_scores is empty"),
        ([1.0], 1.0, "holdout_scores must be one-dimensional"),
    ],
)
def test_membership_auc_rejects(forget, holdout, message):
    with pytest.raises(InputError, match=message):
        membership_auc(forget, holdout)


@pytest.mark.parametrize(
    ("auc", "reference_auc", "expected"),
    [
        (0.5, 0.5, 0),  # like the retrained model
        (1.0, 0.5, -100),  # forget rows still recognized
        (0.0, 0.5, 100),  # over-unlearned
        (0.4, 0.2, -25),  # (0.6 - 0.8) / 0.8
        (0.2, 0.4, 100 / 3),  # (0.8 - 0.6) / 0.6
        (1.0, 0.0, -100),
    ],
)
def test_privleak(auc, reference_auc, expected):
    assert privleak(auc, reference_auc) == pytest.approx(expected, rel=1e-9)


def test_privleak_reference_is_chance_by_default():
    assert privleak(0.75) == pytest.approx(-50, rel=1e-9)


@pytest.mark.parametrize(
    ("auc", "reference_auc", "message"),
    [
        (float("nan"), 0.5, "^auc must be finite"),
        (99.7, 0.5, r"^auc must be.*<= 1, got 99\.7: .*not a percentage"),
        (0.5, -0.1, r"reference_auc must be.*>= 0.*got -0\.1"),
        (0.5, 1.0, r"reference_auc is 1\.0.*no denominator"),
        ([0.5], 0.5, r"auc must be a single number, got \[0\.5\]"),
    ],
)
def test_privleak_rejects(auc, reference_auc, message):
    with pytest.raises(InputError, match=message):
        privleak(auc, reference_auc)
