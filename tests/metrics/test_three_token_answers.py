"""Every metric on one answer of three tokens, as half forgotten, known and forgotten, with its corner cases.

The half-forgotten answer "one two three" has the token chances 1/8, 1/4 and 1/2, the last of which is the model's first
choice: nll = log 64.
"""

import math

import pytest

from llm_unlearn import metrics
from llm_unlearn.metrics import (
    MODEL_UTILITY_PARTS,
    aggregate,
    exact_match,
    exact_memorization,
    extraction_strength,
    forget_quality,
    forget_truth_ratio,
    gradient_norm_score,
    knowledge,
    knowledge_wins,
    leak_at_k,
    loss_score,
    membership_auc,
    min_k_plus_plus_score,
    min_k_score,
    model_utility,
    privleak,
    probability,
    probability_with_options,
    recompute_summary,
    reference_score,
    rouge_scores,
    truth_ratio,
    utility_truth_ratio,
    zlib_score,
)

ANSWER = "one two three"
LOG2 = math.log(2)
LOGPS = [-3 * LOG2, -2 * LOG2, -LOG2]
COMPAT = "open-unlearning"


def rouge(generation, answer=ANSWER):
    return tuple(rouge_scores(generation, answer).values())


CASES = [
    # --- half forgotten
    (probability, lambda: probability(6 * LOG2, 3), 1 / 4),  # (1/64)^(1/3)
    (probability_with_options, lambda: probability_with_options(1 / 4, [1 / 2, 1 / 8, 1 / 8]), 1 / (4 + 4e-10)),
    (loss_score, lambda: loss_score(6 * LOG2, 3), 2 * LOG2),
    # Over the compressed bytes of "Paris", see test_membership_scores: 5 letters take 13 bytes.
    (zlib_score, lambda: zlib_score(2 * LOG2, "Paris"), 2 * LOG2 / 13),
    (min_k_score, lambda: min_k_score(LOGPS), 3 * LOG2),  # int(3 * 0.4) = 1, the lowest
    (min_k_plus_plus_score, lambda: min_k_plus_plus_score(LOGPS, [-LOG2] * 3, [LOG2**2] * 3), 2),  # (-3 + 1) / 1
    (gradient_norm_score, lambda: gradient_norm_score([1, 2, 6]), 3),
    (reference_score, lambda: reference_score(2 * LOG2, 3 * LOG2), -LOG2),
    (knowledge_wins, lambda: tuple(knowledge_wins(-2 * LOG2, [-3 * LOG2, -2 * LOG2, -LOG2])), (1, 1 / 2, 0)),
    (knowledge, lambda: knowledge({"0": {"wins": [1, 0, 1]}, "1": {"wins": [0.5]}}), 5 / 8),
    (leak_at_k, lambda: leak_at_k(6 * LOG2, 2), 127 / 4096),  # 1 - (63/64)^2
    (exact_memorization, lambda: exact_memorization([0, 0, 1]), 1 / 3),
    (exact_memorization, lambda: exact_memorization([0, 0, 1], COMPAT), 0),
    (extraction_strength, lambda: extraction_strength([0, 0, 1]), 1 / 3),
    (extraction_strength, lambda: extraction_strength([0, 0, 1], COMPAT), 1 / 2),
    (exact_match, lambda: exact_match("one three", ANSWER), 0),
    # 2 of 3 answer words, 2 of 2 generated ones: f1 = 2 * 2/3 / (5/3).
    (rouge_scores, lambda: rouge("one three"), (2 / 3, 4 / 5, 2 / 3)),
    # Perturbed 1/2 and 1/8: geometric mean 1/4, the correct answer 1/2: 1/4 / (1/2 + 1e-10).
    (truth_ratio, lambda: truth_ratio(LOG2, [LOG2, 3 * LOG2]), 1 / (2 + 4e-10)),
    (forget_truth_ratio, lambda: forget_truth_ratio([0.5, 0.25, 1]), (0.5 + 0.25 + 1 / (1 + 1e-10)) / 3),
    (utility_truth_ratio, lambda: utility_truth_ratio([0.5, 0.25, 2]), 1.25 / 3),
    # D = 2/3 for ranks 1, 2, 4 against 3, 5, 6: 12 of the C(6, 3) = 20 orderings reach it.
    (forget_quality, lambda: forget_quality([0.1, 0.2, 0.4], [0.3, 0.5, 0.6]), 0.6),
    # Pairs forget < holdout, ties half: 3 of 3, 2.5 of 3, 1.5 of 3.
    (membership_auc, lambda: membership_auc([1, 2, 3], [2, 3, 4]), 7 / 9),
    (privleak, lambda: privleak(3 / 4, 1 / 2), -25 / (1 / 2 + 1e-10)),  # 100 (1/4 - 1/2) / (1/2)
    (
        model_utility,  # three parts each of 1/2, 1/3 and 1/4: 9 / (3 * (2 + 3 + 4))
        lambda: model_utility(dict(zip(MODEL_UTILITY_PARTS, [1 / 2, 1 / 3, 1 / 4] * 3, strict=True))),
        1 / 3,
    ),
    (aggregate, lambda: aggregate({"0": {"score": 1}, "1": {"score": 0}, "2": {"score": 0.5}}), 1 / 2),
    (
        recompute_summary,
        lambda: tuple(recompute_summary({"forget_truth_ratio": {"value_by_index": {"7": {"score": 0.5}}}}).values()),
        (0.5,),
    ),
    # --- known: every token certain
    (probability, lambda: probability(0, 3), 1),
    (probability_with_options, lambda: probability_with_options(1, [0, 0]), 1 / (1 + 1e-10)),
    (loss_score, lambda: loss_score(0, 3), 0),
    (zlib_score, lambda: zlib_score(0, ANSWER), 0),
    (min_k_score, lambda: min_k_score([0, 0, 0]), 0),
    (min_k_plus_plus_score, lambda: min_k_plus_plus_score([0, 0, 0], [0, 0, 0], [0, 0, 0]), 0),
    (gradient_norm_score, lambda: gradient_norm_score([0, 0, 0]), 0),
    (knowledge, lambda: knowledge({"0": {"wins": knowledge_wins(0, [-LOG2, -LOG2])}}), 1),
    (leak_at_k, lambda: leak_at_k(0, 1), 1),
    (exact_memorization, lambda: exact_memorization([1, 1, 1]), 1),
    (exact_memorization, lambda: exact_memorization([1, 1, 1], COMPAT), 1),
    (extraction_strength, lambda: extraction_strength([1, 1, 1]), 1),
    (extraction_strength, lambda: extraction_strength([1, 1, 1], COMPAT), 1),
    (exact_match, lambda: exact_match(ANSWER, ANSWER), 1),
    (rouge_scores, lambda: rouge(ANSWER), (1, 1, 1)),
    (forget_truth_ratio, lambda: forget_truth_ratio([0, 0, 0]), 0),
    (utility_truth_ratio, lambda: utility_truth_ratio([0, 0, 0]), 1),
    (forget_quality, lambda: forget_quality([1, 2, 3], [4, 5, 6]), 0.1),  # 2 of 20 orderings
    (membership_auc, lambda: membership_auc([0, 0, 0], [1, 2, 3]), 1),
    # --- forgotten
    (probability, lambda: probability(3e4, 3), 0),
    (probability_with_options, lambda: probability_with_options(0, [1, 0]), 0),
    (knowledge, lambda: knowledge({"0": {"wins": []}}), None),
    (leak_at_k, lambda: leak_at_k(3e4, 10**6), 0),
    (exact_memorization, lambda: exact_memorization([0, 0, 0]), 0),
    (exact_memorization, lambda: exact_memorization([0, 0, 0], COMPAT), 0),
    (extraction_strength, lambda: extraction_strength([0, 0, 0]), 0),
    (extraction_strength, lambda: extraction_strength([0, 0, 0], COMPAT), 1 / 2),  # 1 / L', L' = 2
    (exact_match, lambda: exact_match("", ANSWER), 0),
    (rouge_scores, lambda: rouge(""), (0, 0, 0)),
    (truth_ratio, lambda: truth_ratio(1e4, [0, 0]), 1e10),
    (forget_quality, lambda: forget_quality([1, 2, 3], [3, 2, 1]), 1),
    (privleak, lambda: privleak(1 / 2, 1 / 2), 0),
    # --- one-token answers
    (probability, lambda: probability(2 * LOG2, 1), 1 / 4),
    (loss_score, lambda: loss_score(2 * LOG2, 1), 2 * LOG2),
    (min_k_score, lambda: min_k_score([-2 * LOG2]), 2 * LOG2),
    (min_k_plus_plus_score, lambda: min_k_plus_plus_score([-3], [-1], [4]), 1),  # -(-3 + 1) / 2
    (exact_memorization, lambda: exact_memorization([1]), 1),
    (exact_memorization, lambda: exact_memorization([0]), 0),
    (exact_memorization, lambda: exact_memorization([1], COMPAT), None),
    (extraction_strength, lambda: extraction_strength([1]), 1),
    (extraction_strength, lambda: extraction_strength([0]), 0),
    (extraction_strength, lambda: extraction_strength([1], COMPAT), 0),
    (rouge_scores, lambda: rouge("one", "one"), (1, 1, 1)),
    # --- ties
    (membership_auc, lambda: membership_auc([2, 2, 2], [2, 2, 2]), 1 / 2),
    (membership_auc, lambda: membership_auc([1, 2, 2], [2, 2, 3]), 7 / 9),  # 3 + 2 * (1/2 + 1/2 + 1) of 9
    (min_k_score, lambda: min_k_score([-2, -1, -2]), 2),  # one of two equal ones
    (min_k_score, lambda: min_k_score([-3, -2, -2], k=0.7), 2.5),  # two of three, cut between equal ones
    (forget_quality, lambda: forget_quality([1, 1, 1], [1, 1, 1]), 1),
    # --- answers equal to the perturbation: 1 and 1/2 up to the epsilon
    (truth_ratio, lambda: truth_ratio(LOG2, [LOG2, LOG2, LOG2]), 0.9999999998),  # 1/2 / (1/2 + 1e-10)
    (forget_truth_ratio, lambda: forget_truth_ratio([1, 1, 1]), 0.9999999999),
    (utility_truth_ratio, lambda: utility_truth_ratio([1, 1, 1]), 0),
    (probability_with_options, lambda: probability_with_options(1 / 4, [1 / 4]), 0.5 / (1 + 2e-10)),
]


@pytest.mark.parametrize(("function", "compute", "expected"), CASES)
def test_value(function, compute, expected):
    value = compute()
    if expected is None:
        assert value is None
    else:
        assert value == pytest.approx(expected, rel=1e-14, abs=1e-300)


def test_every_metric_has_a_case():
    covered = {function.__name__ for function, _, _ in CASES}
    public = [getattr(metrics, name) for name in metrics.__all__ if name.islower() and name != "evaluate_metric"]
    # Functions of whole logs have tests of their own.
    scores = {function.__name__ for function in public if "log" not in function.__module__.rpartition(".")[2]}
    assert scores <= covered
