"""Logs of the TOFU repository, on three rows per set with round probabilities."""

import math

import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics.legacy_logs import convert_legacy_log, is_legacy_log
from llm_unlearn.metrics.logs import recompute_log

TRUE = [0.5, 0.25, 0.25]
PARAPHRASED = [0.5, 0.25, 0.125]
PERTURBED = [[0.25, 0.25], [0.5, 0.125], [0.25, 0.25]]  # the geometric mean is 0.25 in every row
FILES = ("eval_log.json", "eval_log_forget.json", "eval_real_author_wo_options.json", "eval_real_world_wo_options.json")


def by_index(values):
    return {str(i): value for i, value in enumerate(values)}


def part(paraphrased=PARAPHRASED, rouge=(1.0, 0.5, 0.0)):
    return {
        "avg_gt_loss": by_index(-math.log(p) for p in TRUE),
        "avg_paraphrased_loss": by_index(-math.log(p) for p in paraphrased),
        "average_perturb_loss": by_index([-math.log(p) for p in row] for row in PERTURBED),
        "rougeL_recall": by_index(rouge),
        "truth_ratio": by_index([9.0, 9.0, 9.0]),  # stored, and not read
    }


def legacy_log(**parts):
    return {name: part() for name in FILES} | parts


def test_every_aggregate_of_tofu():
    """Ratios 1/2, 1 and 2: forget mean of 1/2, 1, 1/2; others mean of 1/2, 0, 0. Normalized: 1/2, 2/7, 1/3."""
    parts = {
        **{f"{name}_Q_A_Prob": 1 / 3 for name in ("forget", "retain")},
        **{f"{name}_Q_A_Prob_normalised": (1 / 2 + 2 / 7 + 1 / 3) / 3 for name in ("ra", "wf")},
        **{f"{name}_Q_A_ROUGE": 0.5 for name in ("forget", "retain", "ra", "wf")},
        "forget_truth_ratio": 2 / 3,
        **{f"{name}_Truth_Ratio": 1 / 6 for name in ("retain", "ra", "wf")},
    }
    # Harmonic mean of 1/3, twice 47/126, three times 1/2 and three times 1/6.
    expected = parts | {"model_utility": 9 / (3 + 2 * 126 / 47 + 3 * 2 + 3 * 6)}
    recomputed = recompute_log(legacy_log())
    assert recomputed.summary == pytest.approx(expected, rel=1e-9)
    assert recomputed.remarks.keys() == {"forget_quality", "privleak"}


def test_forget_quality_between_two_legacy_logs():
    """The ratios 1/2, 1, 2 against 4, 4, 4: no overlap, 2 of the 20 ways to split six values."""
    retain_log = legacy_log(**{"eval_log_forget.json": part(paraphrased=[1 / 16] * 3)})
    assert recompute_log(legacy_log(), retain_log).summary["forget_quality"] == pytest.approx(2 / 20, rel=1e-12)
    assert recompute_log(legacy_log(), legacy_log()).summary["forget_quality"] == 1.0


def test_rouge_is_scored_from_the_texts_of_legacy_logs():
    texts = {"generated_text": by_index([["Who?", "red", "red green"]] * 3)}
    recomputed = recompute_log(legacy_log(**{"eval_log.json": part() | texts}))
    assert recomputed.summary["retain_Q_A_ROUGE"] == 0.5
    assert "2 stored values contradict; row 0" in recomputed.remarks["retain_Q_A_ROUGE"]


def test_both_kinds_of_logs_are_told_apart():
    assert is_legacy_log(legacy_log())
    assert is_legacy_log(part())
    assert not is_legacy_log({"forget_truth_ratio": {}})
    assert not is_legacy_log([])


def test_logs_of_different_formats_are_not_compared():
    modern = {"forget_truth_ratio": {"value_by_index": by_index([{"score": 1.0}] * 3)}}
    message = r"^a\.json is a log of the TOFU repository and b\.json one of open-unlearning; .*same code"
    with pytest.raises(InputError, match=message):
        recompute_log(legacy_log(), modern, labels=("a.json", "b.json"))


def without(field):
    return {name: value for name, value in part().items() if name != field}


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (part(), r"^a\.json is one of four parts of a TOFU evaluation: pass its eval_log_aggregated\.json"),
        (
            {name: part() for name in FILES if name != "eval_log_forget.json"},
            r"^a\.json has no eval_log_forget\.json",
        ),
        (
            legacy_log(**{"eval_log.json": without("avg_gt_loss")}),
            r"a\.json: eval_log\.json has no rows in avg_gt_loss",
        ),
        (
            legacy_log(**{"eval_log.json": part() | {"rougeL_recall": by_index([1.0, 1.0])}}),
            "eval_log.json, avg_gt_loss has 3 rows and .*eval_log.json, rougeL_recall has 2, row 2",
        ),
        (
            legacy_log(**{"eval_log.json": part() | {"avg_gt_loss": by_index([0.5, float("nan"), 0.5])}}),
            r"eval_log\.json, avg_gt_loss, row 1 must be finite, got nan",
        ),
        (
            legacy_log(**{"eval_log.json": part() | {"average_perturb_loss": by_index([[1.0], [None], [1.0]])}}),
            r"eval_log\.json, average_perturb_loss, row 1 must hold numbers, got \[None\]",
        ),
    ],
)
def test_a_bad_legacy_log_is_named_with_its_part_and_field(log, message):
    with pytest.raises(InputError, match=message):
        convert_legacy_log(log, "a.json")
