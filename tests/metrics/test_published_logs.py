"""The published logs of Llama-3.2-1B on TOFU forget10, recomputed from their rows to 1e-9."""

import json

import numpy as np
import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import (
    aggregate,
    privleak,
    probability,
    probability_with_options,
    recompute_summary,
    rouge_scores,
    truth_ratio,
)
from llm_unlearn.metrics.logs import recompute_log

FULL = "tofu_Llama-3.2-1B-Instruct_full/evals_forget10"
RETAIN = "tofu_Llama-3.2-1B-Instruct_retain90"
# Truth ratio -> its correct and perturbed answers.
TRUTH_RATIOS = {
    "forget_truth_ratio": ("forget_Q_A_PARA_Prob", "forget_Q_A_PERT_Prob"),
    "retain_Truth_Ratio": ("retain_Q_A_PARA_Prob", "retain_Q_A_PERT_Prob"),
    "ra_Truth_Ratio": ("ra_Q_A_Prob", "ra_Q_A_PERT_Prob"),
    "wf_Truth_Ratio": ("wf_Q_A_Prob", "wf_Q_A_PERT_Prob"),
}


@pytest.fixture(scope="module", params=[FULL, RETAIN])
def folder(request):
    return request.param


@pytest.fixture(scope="module")
def read(shared_data):
    def read_file(folder, name):
        path = shared_data / "oracles" / folder / name
        if not path.is_file():
            pytest.skip(f"no published log at {path}")
        return json.loads(path.read_text(encoding="utf-8"))

    return read_file


@pytest.fixture(scope="module")
def log(read, folder):
    return read(folder, "TOFU_EVAL.json")


@pytest.fixture(scope="module")
def retain_log(read):
    return read(RETAIN, "TOFU_EVAL.json")


@pytest.fixture(scope="module")
def reference(retain_log, folder):
    """The full model was compared with retain90; retain90 itself was published without a reference."""
    return retain_log if folder == FULL else None


@pytest.fixture(scope="module")
def summary(log, reference):
    return recompute_summary(log, reference)


def column(log, name, field):
    return np.array([row[field] for row in log[name]["value_by_index"].values()])


def test_every_stored_aggregate_is_recomputed_from_the_rows(log, summary, read, folder):
    stored = {name: entry["agg_value"] for name, entry in log.items() if entry["agg_value"] is not None}
    assert summary == pytest.approx(stored, rel=1e-9, abs=0)
    published = read(folder, "TOFU_SUMMARY.json")
    assert {name: summary[name] for name in published} == pytest.approx(published, rel=1e-9, abs=0)


def test_published_rows_contradict_neither_their_texts_nor_their_losses(log, reference, folder):
    remarks = recompute_log(log, reference).remarks
    # The published retain model has no reference; the full model leaves nothing to remark upon.
    assert remarks.keys() == (set() if folder == FULL else {"forget_quality", "privleak"})


def test_rouge_needs_the_texts_alone(log):
    fields = ("generation", "ground_truth")
    for name in ("forget_Q_A_ROUGE", "wf_Q_A_ROUGE"):
        rows = log[name]["value_by_index"]
        texts = {index: {field: row[field] for field in fields} for index, row in rows.items()}
        summary = recompute_summary({name: {"value_by_index": texts}})
        assert summary[name] == pytest.approx(log[name]["agg_value"], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("forget_truth_ratio", "has no forget_truth_ratio"),
        ("forget_Q_A_PARA_Prob", "forget_Q_A_PARA_Prob is missing"),
        ("retain_Q_A_PARA_Prob", "retain_Q_A_PARA_Prob is missing"),
        ("wf_Q_A_ROUGE", "stores model_utility but has no wf_Q_A_ROUGE"),
        ("ra_Q_A_Prob_normalised", "stores model_utility but has no ra_Q_A_Prob_normalised"),
    ],
)
def test_a_metric_that_others_follow_from_may_not_be_missing(log, retain_log, name, message):
    def few(node):
        """The same log with few rows."""
        if not isinstance(node, dict):
            return node
        rows = [*node.items()]
        return {key: few(value) for key, value in (rows[:5] if "0" in node else rows)}

    with pytest.raises(InputError, match=message):
        recompute_log(few({key: entry for key, entry in log.items() if key != name}), few(retain_log))


def test_check_values(summary, folder):
    expected = {
        FULL: {
            "forget_quality": 3.9054713571083378e-22,
            "model_utility": 0.5991534707368931,
            "forget_truth_ratio": 0.475563896242435,
            "privleak": -99.45739100654656,
        },
        RETAIN: {
            "model_utility": 0.5911246639353407,
            "forget_truth_ratio": 0.6274597698541176,
            "privleak": 23.477499995304495,
        },
    }[folder]
    assert {name: summary[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=0)


def test_privleak_of_the_full_model_is_relative_to_retain90_and_not_to_chance():
    assert privleak(0.99665, 0.38261249999999997) == pytest.approx(-99.45739100654656, rel=1e-9)
    assert privleak(0.99665) == pytest.approx(-99.33, rel=1e-9)
    assert privleak(0.38261249999999997) == pytest.approx(23.477499995304495, rel=1e-9)


def test_stored_aggregates_are_not_read(log, reference, summary):
    def without_aggregates(node):
        if not isinstance(node, dict):
            return node
        return {key: without_aggregates(value) for key, value in node.items() if key not in ("agg_value", "auc")}

    assert recompute_summary(without_aggregates(log), without_aggregates(reference)) == summary


@pytest.mark.parametrize("name", TRUTH_RATIOS)
def test_truth_ratio_of_every_row(log, name):
    correct, perturbed = TRUTH_RATIOS[name]
    ratios = truth_ratio(column(log, correct, "avg_loss"), column(log, perturbed, "avg_loss"))
    np.testing.assert_allclose(ratios, column(log, name, "score"), rtol=1e-9)


@pytest.mark.parametrize("split", ["ra", "wf"])
def test_probability_with_options_of_every_row(log, split):
    result = probability_with_options(
        column(log, f"{split}_Q_A_Prob", "prob"), column(log, f"{split}_Q_A_PERT_Prob", "prob")
    )
    np.testing.assert_allclose(result, column(log, f"{split}_Q_A_Prob_normalised", "prob"), rtol=1e-9)


@pytest.mark.parametrize("split", ["forget", "retain", "ra", "wf"])
def test_probability_of_every_row(log, split):
    losses = column(log, f"{split}_Q_A_Prob", "avg_loss")
    # Published probabilities were exponentiated in float32, so they carry its rounding.
    stored = column(log, f"{split}_Q_A_Prob", "prob")
    np.testing.assert_allclose(probability(losses, np.ones(len(losses))), stored, rtol=2e-7)


@pytest.mark.parametrize("split", ["forget", "retain", "ra", "wf"])
def test_rouge_of_every_row_from_its_texts(log, split):
    rows = log[f"{split}_Q_A_ROUGE"]["value_by_index"]
    recomputed = {index: rouge_scores(row["generation"], row["ground_truth"]) for index, row in rows.items()}
    fields = ("rouge1_recall", "rougeL_f1", "rougeL_recall")
    assert recomputed == {index: {field: row[field] for field in fields} for index, row in rows.items()}
    assert aggregate(recomputed, "rougeL_recall") == pytest.approx(log[f"{split}_Q_A_ROUGE"]["agg_value"], rel=1e-9)
