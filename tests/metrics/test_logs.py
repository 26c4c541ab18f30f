import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import MODEL_UTILITY_PARTS, aggregate, recompute_summary


def entry(field, *values):
    """A log entry whose stored aggregate is wrong on purpose: nothing may read it."""
    return {"agg_value": -1.0, "value_by_index": {str(index): {field: value} for index, value in enumerate(values)}}


def attack(forget, holdout):
    return {"forget": entry("score", *forget), "holdout": entry("score", *holdout), "auc": -1.0, "agg_value": -1.0}


def test_aggregate_is_the_mean_over_rows():
    assert aggregate({"0": {"score": 1.0}, "1": {"score": 0.5}}) == 0.75
    assert aggregate({0: {"prob": 0.25, "avg_loss": 9.0}, 1: {"prob": 0.75, "avg_loss": 9.0}}, "prob") == 0.5


def test_aggregate_averages_lists_within_their_row_first():
    # Row means 0.2 and 0.6, although the first row has three values and the second one.
    assert aggregate({"0": {"prob": [0.1, 0.2, 0.3]}, "1": {"prob": [0.6]}}, "prob") == pytest.approx(0.4, rel=1e-15)


def test_aggregate_leaves_out_rows_without_a_token_to_score():
    assert aggregate({"0": {"score": 1.0}, "1": {"score": None}}) == 1.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "value_by_index has no row with a value in 'score'"),
        ({"0": {"score": None}}, "value_by_index has no row with a value in 'score'"),
        ({"0": {"score": 1.0}, "7": {"prob": 1.0}}, "row 7: no field 'score'"),
        ({"0": 1.0}, "row 0: no field 'score' in 1.0"),
        ({"3": {"score": float("nan")}}, "row 3, score must be finite, got nan"),
        ({"3": {"score": "high"}}, "row 3, score must hold numbers, got 'high'"),
    ],
)
def test_aggregate_rejects(rows, message):
    with pytest.raises(InputError, match=message):
        aggregate(rows)


def test_summary_of_every_kind_of_entry():
    log = {
        "forget_Q_A_Prob": entry("prob", 0.25, 0.75),
        "forget_Q_A_PERT_Prob": entry("prob", [0.1, 0.3], [0.2, 0.6]),
        "forget_Q_A_ROUGE": entry("rougeL_recall", 1.0, 0.0),
        "exact_memorization": entry("score", 1.0, None),
        "extraction_strength": entry("score", 0.0, 0.5),
        "forget_truth_ratio": entry("score", 0.5, 4.0),
        "ra_Truth_Ratio": entry("score", 0.5, 4.0),
        "mia_min_k": attack([1.0, 3.0], [2.0, 3.0]),
        "forget_quality": {"agg_value": None},
        "privleak": {"agg_value": -1.0},
        "a metric of someone else": entry("score", 1.0),
    }
    assert recompute_summary(log) == pytest.approx(
        {
            "forget_Q_A_Prob": 0.5,
            "forget_Q_A_PERT_Prob": 0.3,
            "forget_Q_A_ROUGE": 0.5,
            "exact_memorization": 1.0,
            "extraction_strength": 0.25,
            "forget_truth_ratio": 0.375,
            "ra_Truth_Ratio": 0.25,
            "mia_min_k": 0.625,
            "privleak": -25.0,
        },
        rel=1e-9,
    )


def test_retain_log_gives_forget_quality_and_the_reference_auc():
    log = {"forget_truth_ratio": entry("score", 1, 2, 3, 4), "mia_min_k": attack([1.0], [2.0])}
    retain_log = {"forget_truth_ratio": entry("score", 5, 6, 7, 8), "mia_min_k": attack([1.0, 3.0], [2.0, 3.0])}
    summary = recompute_summary(log, retain_log)
    assert summary["forget_quality"] == pytest.approx(2 / 70, rel=1e-12)
    assert summary["privleak"] == pytest.approx(-100, rel=1e-9)
    assert recompute_summary(retain_log, retain_log)["privleak"] == 0.0


def test_a_retain_log_without_the_rows_leaves_the_comparison_out():
    log = {"forget_truth_ratio": entry("score", 1.0), "mia_min_k": attack([1.0], [2.0])}
    assert recompute_summary(log, {}).keys() == {"forget_truth_ratio", "mia_min_k"}


def test_model_utility_needs_all_nine_parts():
    fields = {"Prob": "prob", "Prob_normalised": "prob", "ROUGE": "rougeL_recall", "Truth_Ratio": "score"}
    log = {
        name: entry(next(field for ending, field in fields.items() if name.endswith(ending)), 0.5)
        for name in MODEL_UTILITY_PARTS
    }
    assert recompute_summary(log)["model_utility"] == 0.5
    del log["wf_Truth_Ratio"]
    assert "model_utility" not in recompute_summary(log)


def test_nothing_to_recompute_is_an_empty_summary():
    assert recompute_summary({}) == {}


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({"forget_Q_A_Prob": 0.88}, "forget_Q_A_Prob has no 'value_by_index', got 0.88.*TOFU_EVAL.json"),
        ({"mia_loss": 0.88}, "mia_loss has no group 'forget', got 0.88"),
        ({"mia_loss": {"forget": entry("score", 1.0)}}, "mia_loss has no group 'holdout'"),
        ({"retain_Q_A_Prob": entry("prob", 0.5, float("nan"))}, "retain_Q_A_Prob, row 1, prob must be finite, got nan"),
        ({"wf_Truth_Ratio": entry("score", float("nan"))}, "wf_Truth_Ratio, row 0, score must be finite"),
        ({"wf_Truth_Ratio": entry("score", None)}, "wf_Truth_Ratio, row 0, score must hold numbers, got None"),
        ({"retain_Q_A_ROUGE": entry("rougeL_f1", 1.0)}, "retain_Q_A_ROUGE, row 0: no field 'rougeL_recall'"),
    ],
)
def test_summary_rejects(log, message):
    with pytest.raises(InputError, match=message):
        recompute_summary(log)


def test_logs_of_different_forget_rows_are_not_compared():
    log, retain_log = ({"forget_truth_ratio": entry("score", *range(1, rows + 1))} for rows in (2, 3))
    with pytest.raises(InputError, match="2 rows in eval_log and 3 in retain_log, 2 shared"):
        recompute_summary(log, retain_log)


def test_indices_may_be_text_or_integers():
    log = {"forget_truth_ratio": {"value_by_index": {0: {"score": 1.0}}}}
    assert recompute_summary(log, {"forget_truth_ratio": entry("score", 1.0)})["forget_quality"] == 1.0
