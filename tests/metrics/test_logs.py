import math

import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import MODEL_UTILITY_PARTS, aggregate, recompute_summary
from llm_unlearn.metrics.logs import recompute_log


def entry(field, *values):
    """A log entry whose stored aggregate is wrong on purpose: nothing may read it."""
    return {"agg_value": -1.0, "value_by_index": {str(index): {field: value} for index, value in enumerate(values)}}


def attack(forget, holdout):
    return {"forget": entry("score", *forget), "holdout": entry("score", *holdout), "auc": -1.0, "agg_value": -1.0}


MOST = {
    name: entry("score" if name.endswith("Ratio") else "rougeL_recall" if name.endswith("ROUGE") else "prob", 0.5)
    for name in MODEL_UTILITY_PARTS
    if name != "wf_Truth_Ratio"
}


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
        "extraction_strength_open_unlearning": entry("score", 0.5, 0.5),
        "leak_at_64": entry("score", 0.0, 1.0),
        "forget_exact_match": entry("score", 1.0, 1.0),
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
            "extraction_strength_open_unlearning": 0.5,
            "leak_at_64": 0.5,
            "forget_exact_match": 1.0,
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


def test_a_retain_log_without_an_attack_leaves_the_reference_at_chance():
    log = {"forget_truth_ratio": entry("score", 1.0), "mia_min_k": attack([1.0], [2.0])}
    recomputed = recompute_log(log, {"forget_truth_ratio": entry("score", 1.0)})
    assert recomputed.summary["privleak"] == pytest.approx(-100, rel=1e-9)
    assert "relative to the AUC 0.5, since retain_log holds no mia_min_k" in recomputed.remarks["privleak"]


def test_privleak_is_left_out_where_the_reference_knows_every_member():
    log = {"forget_truth_ratio": entry("score", 1.0), "mia_min_k": attack([1.0], [2.0])}
    recomputed = recompute_log(log, log)
    assert "privleak" not in recomputed.summary
    assert "retain_log has the mia_min_k AUC 1.0" in recomputed.remarks["privleak"]


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
    with pytest.raises(
        InputError,
        match=r"eval_log: forget_truth_ratio has 2 rows and retain_log: forget_truth_ratio has 3, row 2 is only in "
        r"the second: .*same forget split",
    ):
        recompute_summary(log, retain_log)


def test_indices_may_be_text_integers_or_written_as_floats():
    log = {"forget_truth_ratio": {"value_by_index": {0: {"score": 1.0}}}}
    for index in ("0", "0.0"):
        retain_log = {"forget_truth_ratio": {"value_by_index": {index: {"score": 1.0}}}}
        assert recompute_summary(log, retain_log)["forget_quality"] == 1.0


# Three questions: true answers of probability 1/2, 1/4, 1/8; two false ones each, of 1/4 and 1/4.
TRUE = [0.5, 0.25, 0.125]


def losses(values):
    return {
        "value_by_index": {
            str(i): {"prob": v, "avg_loss": [-math.log(x) for x in v] if isinstance(v, list) else -math.log(v)}
            for i, v in enumerate(values)
        }
    }


def ratio_log(scores, name="forget_truth_ratio", correct="forget_Q_A_PARA_Prob"):
    return {
        correct: losses(TRUE),
        "forget_Q_A_PERT_Prob": losses([[0.25, 0.25]] * 3),
        name: entry("score", *scores),
    }


def test_truth_ratios_that_follow_from_their_losses_need_no_remark():
    recomputed = recompute_log(ratio_log([0.5, 1.0, 2.0]))
    assert recomputed.summary["forget_truth_ratio"] == pytest.approx((0.5 + 1 + 0.5) / 3, rel=1e-9)
    assert "contradict" not in str(recomputed.remarks)


def test_truth_ratios_that_contradict_their_losses_are_used_and_remarked_upon():
    recomputed = recompute_log(ratio_log([0.5, 0.25, 2.0]))
    assert recomputed.summary["forget_truth_ratio"] == pytest.approx((0.5 + 0.25 + 0.5) / 3, rel=1e-9)
    assert (
        "1 of 3 stored rows contradict the losses of forget_Q_A_PARA_Prob and forget_Q_A_PERT_Prob"
        in (recomputed.remarks["forget_truth_ratio"])
    )
    assert "row 1: 0.25 stored, 0.999" in recomputed.remarks["forget_truth_ratio"]


def test_shares_of_the_true_answer_are_recognized_and_averaged():
    """true / (true + false): 1/2 against 1/4, 1/4 against 1/4, 1/8 against 1/4."""
    shares = [2 / 3, 1 / 2, 1 / 3]
    recomputed = recompute_log(ratio_log(shares))
    assert recomputed.summary["forget_truth_ratio"] == pytest.approx(0.5, rel=1e-9)
    assert "true / (true + false) instead of false / true" in recomputed.remarks["forget_truth_ratio"]
    with pytest.raises(InputError, match="eval_log and retain_log define forget_truth_ratio differently"):
        recompute_summary(ratio_log(shares), ratio_log([0.5, 1.0, 2.0]))
    assert recompute_summary(ratio_log(shares), ratio_log(shares))["forget_quality"] == 1.0


def test_truth_ratios_without_a_paraphrase_are_those_of_the_answer():
    log = ratio_log([0.5, 1.0, 2.0], correct="forget_Q_A_Prob")
    assert "contradict" not in str(recompute_log(log).remarks)
    log = ratio_log([0.5, 0.25, 2.0], correct="forget_Q_A_Prob")
    with pytest.raises(InputError, match="does not follow from forget_Q_A_Prob, and forget_Q_A_PARA_Prob is missing"):
        recompute_log(log)


def test_a_missing_source_of_truth_ratios_is_named():
    log = ratio_log([0.5, 1.0, 2.0])
    del log["forget_Q_A_PERT_Prob"]
    assert "forget_Q_A_PERT_Prob is missing" in recompute_log(log).remarks["forget_truth_ratio"]


def test_the_name_of_the_truth_ratio_may_be_capitalized():
    log = ratio_log([0.5, 1.0, 2.0], name="forget_Truth_Ratio")
    summary = recompute_summary(log, ratio_log([0.5, 1.0, 2.0]))
    assert summary["forget_Truth_Ratio"] == pytest.approx(2 / 3, rel=1e-9)
    assert summary["forget_quality"] == 1.0


def test_normalized_probabilities_are_compared_with_those_they_follow_from():
    log = {"ra_Q_A_Prob": losses(TRUE), "ra_Q_A_PERT_Prob": losses([[0.25, 0.25]] * 3)}
    good = log | {"ra_Q_A_Prob_normalised": entry("prob", 1 / 2, 1 / 3, 1 / 5)}
    recomputed = recompute_log(good)
    assert recomputed.summary["ra_Q_A_Prob_normalised"] == pytest.approx(31 / 90, rel=1e-9)
    assert "contradict" not in str(recomputed.remarks)
    bad = log | {"ra_Q_A_Prob_normalised": entry("prob", 1 / 2, 1 / 3, 1 / 4)}
    assert "row 2: 0.25 stored, 0.19999" in recompute_log(bad).remarks["ra_Q_A_Prob_normalised"]


def rouge_row(generation, ground_truth, **stored):
    return {"generation": generation, "ground_truth": ground_truth, **stored}


def test_rouge_is_scored_from_the_texts():
    """Two of the answer's four words, then all of them; the stored values say otherwise."""
    rows = {
        "0": rouge_row("red green", "red green blue black", rougeL_recall=0.75, rouge1_recall=0.5),
        "1": rouge_row("red green", "Red, green!", rougeL_recall=1.0, rouge1_recall=1.0),
    }
    recomputed = recompute_log({"wf_Q_A_ROUGE": {"value_by_index": rows}})
    assert recomputed.summary == {"wf_Q_A_ROUGE": 0.75}
    assert (
        "1 stored values contradict; row 0: rougeL_recall 0.75 stored, 0.5 from" in (recomputed.remarks["wf_Q_A_ROUGE"])
    )


def test_rouge_of_texts_needs_no_stored_value_and_a_stored_value_no_texts():
    texts = {"0": rouge_row("red", "red green")}
    assert recompute_summary({"wf_Q_A_ROUGE": {"value_by_index": texts}}) == {"wf_Q_A_ROUGE": 0.5}
    assert recompute_summary({"wf_Q_A_ROUGE": entry("rougeL_recall", 0.25)}) == {"wf_Q_A_ROUGE": 0.25}


def test_rouge_of_several_answers_is_averaged_within_the_row():
    rows = {"0": rouge_row(["red", "blue"], ["red", "red green"], rougeL_recall=[1.0, 0.0])}
    assert recompute_summary({"forget_Q_A_PERT_ROUGE": {"value_by_index": rows}}) == {"forget_Q_A_PERT_ROUGE": 0.5}


def test_answers_without_a_word_for_rouge_keep_their_stored_value():
    rows = {"0": rouge_row("?", "?", rougeL_recall=0.0), "1": rouge_row("red", "red", rougeL_recall=1.0)}
    recomputed = recompute_log({"wf_Q_A_ROUGE": {"value_by_index": rows}})
    assert recomputed.summary == {"wf_Q_A_ROUGE": 0.5}
    assert (
        "1 answers have no word for ROUGE, stored values are used; first row 0" in (recomputed.remarks["wf_Q_A_ROUGE"])
    )


def test_answers_in_other_scripts_are_scored_by_words_of_theirs_and_it_is_remarked():
    rows = {"0": rouge_row("red", "red"), "1": rouge_row("京都1987", "東京1987"), "2": rouge_row(["我"], ["我们"])}
    rows |= {"1": rows["1"] | {"rougeL_recall": 1.0}, "0": rows["0"] | {"rougeL_recall": 1.0}}
    rows["2"]["rougeL_recall"] = [0.0]
    recomputed = recompute_log({"wf_Q_A_ROUGE": {"value_by_index": rows}})
    assert recomputed.summary["wf_Q_A_ROUGE"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)  # 京 1987 of 東 京 1987
    remark = recomputed.remarks["wf_Q_A_ROUGE"]
    assert "2 rows are scored by the Unicode tokenizer; first row 1" in remark
    assert "which 2 stored values contradict; row 1: rougeL_recall 1.0 stored" in remark


def test_stored_aggregates_that_differ_are_remarked_upon():
    log = {"forget_Q_A_Prob": entry("prob", 0.5), "forget_quality": {"agg_value": 0.25}, "other": {"agg_value": 1}}
    log["forget_truth_ratio"] = {"agg_value": 0.5, "value_by_index": {"0": {"score": 0.5}}}
    remarks = recompute_log(log).remarks
    assert remarks["forget_Q_A_Prob"] == "recomputed 0.5, but the log stores -1.0"
    assert remarks["forget_quality"].endswith("without the forget rows; the log stores 0.25")
    assert remarks["other"] == "left out: not a metric of TOFU's; the log stores 1"
    assert "forget_truth_ratio" not in remarks
    assert remarks["forget_Q_A_ROUGE"] == "missing: the log lacks it"
    assert remarks["model_utility"].startswith("needs metrics of retain rows, real authors and world facts")


def test_rows_without_a_token_are_counted():
    log = {"exact_memorization": entry("score", 1.0, None)}
    assert "1 of 2 rows have no score and are left out, first 1" in recompute_log(log).remarks["exact_memorization"]
    assert "exact_memorization" not in recompute_summary({"exact_memorization": entry("score", None)})


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({"forget_quality": {"agg_value": 0.1}}, "stores forget_quality but has no forget_truth_ratio"),
        ({"model_utility": {"agg_value": 0.1}, **MOST}, "stores model_utility but has no wf_Truth_Ratio, which"),
        (
            {"ra_Q_A_Prob": entry("prob", 0.5, 0.5, 0.5), "ra_Q_A_ROUGE": entry("rougeL_recall", 1.0, 1.0)},
            "eval_log: ra_Q_A_Prob has 3 rows and eval_log: ra_Q_A_ROUGE has 2, row 2 is only in the first",
        ),
        (
            {"mia_loss": attack([1.0], [2.0, 3.0]), "mia_zlib": attack([1.0], [2.0])},
            "mia_loss, holdout has 2 rows and eval_log: mia_zlib, holdout has 1",
        ),
        ({"forget_Q_A_Prob": entry("prob", None)}, "forget_Q_A_Prob, row 0, prob must hold numbers, got None"),
        ({"extraction_strength": entry("score", 1.0, None)}, "extraction_strength, row 1, score must hold numbers"),
        ({"forget_Q_A_Prob": {"value_by_index": {}}}, "forget_Q_A_Prob has no row"),
        (
            {"forget_Q_A_Prob": {"value_by_index": {"0": {"prob": 1.0, "avg_loss": 0.0}, "1": {"prob": 1.0}}}},
            "forget_Q_A_Prob, row 1: no field 'avg_loss', which other rows have",
        ),
        ({"forget_Q_A_Prob": {"value_by_index": {"7": None}}}, "forget_Q_A_Prob, row 7: no field 'prob' in None"),
        (
            {"forget_Q_A_Prob": {"value_by_index": {"7": {"prob": 0.5, "avg_loss": float("inf")}}}},
            "row 7, avg_loss must be finite, got inf",
        ),
        (
            {"forget_Q_A_ROUGE": {"value_by_index": {"7": rouge_row(None, "red", rougeL_recall=0.0)}}},
            "forget_Q_A_ROUGE, row 7, generation must be a string, got None",
        ),
        (
            {"forget_Q_A_ROUGE": {"value_by_index": {"7": rouge_row(["a", "b"], ["a"])}}},
            "forget_Q_A_ROUGE, row 7 has 2 generations and 1 answers",
        ),
        (
            {"forget_Q_A_ROUGE": {"value_by_index": {"7": rouge_row("red", "red", rougeL_f1=float("nan"))}}},
            "row 7, rougeL_f1 must be finite, got nan",
        ),
        ({"mia_loss": attack([float("nan")], [1.0])}, "mia_loss, forget, row 0, score must be finite, got nan"),
        ([], "eval_log must be an object of metrics, got \\[\\]"),
    ],
)
def test_a_bad_log_is_named_with_its_metric_and_row(log, message):
    with pytest.raises(InputError, match=message):
        recompute_log(log)


def test_both_logs_must_have_truth_ratios_to_compare():
    log = {"forget_truth_ratio": entry("score", 1.0)}
    with pytest.raises(InputError, match=r"^retain\.json has no forget_truth_ratio, which forget_quality compares"):
        recompute_log(log, {}, labels=("model.json", "retain.json"))
    with pytest.raises(InputError, match=r"^model\.json has no forget_truth_ratio"):
        recompute_log({}, log, labels=("model.json", "retain.json"))


def test_where_neither_log_has_truth_ratios_forget_quality_is_left_out_and_the_rest_stands():
    """Rows of one's own have no perturbed answers, whoever is judged on them."""
    log = {"forget_exact_match": entry("score", 1.0)}
    found = recompute_log(log, log)
    assert "forget_quality" not in found.summary and found.summary["forget_exact_match"] == 1.0
    assert found.remarks["forget_quality"] == "needs forget rows with perturbed answers"
