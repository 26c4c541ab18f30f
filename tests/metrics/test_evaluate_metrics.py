"""The metrics through Hugging Face's `evaluate`: the same numbers alone, in batches and combined, without a network."""

import math
import os
import pickle
import socket
import subprocess
import sys

import evaluate
import numpy as np
import pytest

from llm_unlearn import metrics
from llm_unlearn.errors import InputError
from llm_unlearn.metrics import EVALUATE_METRICS, MODEL_UTILITY_PARTS, evaluate_metric

# One value of every keyword, as one call of a combination of all metrics takes them.
NLL, LENGTH = [math.log(64), 0.0, 2.5], [3, 1, 2]
CORRECT, WRONG = [0.25, 0.5], [[0.5, 0.125], [0.5, 0.0]]
PREDICTIONS, REFERENCES = ["one three", "", "Paris"], ["one two three", "one", "Paris"]
CORRECT_LOSSES, PERTURBED_LOSSES = [1.0, 0.5], [[1.0, 3.0], [0.5, 0.5]]
RATIOS, RETAIN_RATIOS = [0.5, 2.0, 1.0], [3.0, 4.0, 0.75, 6.0]
TOKEN_HITS = [[0, 0, 1], [1, 1], [0, 0], [1]]
AVERAGE_LOSS, REFERENCE_AVERAGE_LOSS, TEXT = [2.0, 0.5], [1.0, 1.5], ["Paris", "one two three"]
TOKEN_LOGPS, MEANS, VARIANCES = [[-3.0, -1.0], [-0.5]], [[-1.0, -1.5], [-2.0]], [[4.0, 1.0], [0.0]]
PARAMETER_NORMS = [[1.0, 2.0, 6.0], [0.5]]
FORGET_SCORES, HOLDOUT_SCORES = [1.0, 2.0], [2.0, 3.0, 0.5]
AUC = [0.75, 0.25]
TRUE_LOGP, MADE_UP_LOGPS = [-1.0, -2.0, -3.0], [[-2.0, -0.5, -1.0], [], [-4.0]]
PART_VALUES = [1 / 2, 1 / 3, 1 / 4] * 3
COMPAT, K, MIN_K, REFERENCE_AUC = "open-unlearning", 64, 0.7, 0.4
INPUTS = {
    "nll": NLL,
    "length": LENGTH,
    "correct": CORRECT,
    "wrong": WRONG,
    "predictions": PREDICTIONS,
    "references": REFERENCES,
    "correct_losses": CORRECT_LOSSES,
    "perturbed_losses": PERTURBED_LOSSES,
    "ratios": RATIOS,
    "token_hits": TOKEN_HITS,
    "average_loss": AVERAGE_LOSS,
    "reference_average_loss": REFERENCE_AVERAGE_LOSS,
    "text": TEXT,
    "token_logps": TOKEN_LOGPS,
    "vocabulary_means": MEANS,
    "vocabulary_variances": VARIANCES,
    "parameter_norms": PARAMETER_NORMS,
    "forget_scores": FORGET_SCORES,
    "auc": AUC,
    "true_logp": TRUE_LOGP,
    "made_up_logps": MADE_UP_LOGPS,
    "parts": list(MODEL_UTILITY_PARTS),
    "part_values": PART_VALUES,
}
OPTIONS = {
    "retain_ratios": RETAIN_RATIOS,
    "holdout_scores": HOLDOUT_SCORES,
    "compat": COMPAT,
    "k": K,
    "tokenizer": "english",
    "min_k": MIN_K,
    "reference_auc": REFERENCE_AUC,
}


def mean(values):
    values = [value for value in values if value is not None]
    return sum(values) / len(values)


def rows(*columns):
    return zip(*columns, strict=True)


ROUGE = [metrics.rouge_scores(*row) for row in rows(PREDICTIONS, REFERENCES)]
# What the functions say about the values above, row by row.
EXPECTED = {
    "probability": {"probability": mean(metrics.probability(*row) for row in rows(NLL, LENGTH))},
    "probability_with_options": {
        "probability_with_options": mean(metrics.probability_with_options(*row) for row in rows(CORRECT, WRONG))
    },
    "exact_match": {"exact_match": mean(metrics.exact_match(*row) for row in rows(PREDICTIONS, REFERENCES))},
    "rouge": {kind: mean(row[kind] for row in ROUGE) for kind in ("rouge1_recall", "rougeL_f1", "rougeL_recall")},
    "truth_ratio": {"truth_ratio": mean(metrics.truth_ratio(*row) for row in rows(CORRECT_LOSSES, PERTURBED_LOSSES))},
    "forget_truth_ratio": {"forget_truth_ratio": metrics.forget_truth_ratio(RATIOS)},
    "utility_truth_ratio": {"utility_truth_ratio": metrics.utility_truth_ratio(RATIOS)},
    "forget_quality": {"forget_quality": metrics.forget_quality(RATIOS, RETAIN_RATIOS)},
    "exact_memorization": {
        "exact_memorization": mean(metrics.exact_memorization(row, compat=COMPAT) for row in TOKEN_HITS)
    },
    "extraction_strength": {
        "extraction_strength": mean(metrics.extraction_strength(row, compat=COMPAT) for row in TOKEN_HITS)
    },
    "leak_at_k": {"leak_at_k": mean(metrics.leak_at_k(nll, K) for nll in NLL)},
    "loss_score": {"loss_score": mean(metrics.loss_score(*row) for row in rows(NLL, LENGTH))},
    "zlib_score": {"zlib_score": mean(metrics.zlib_score(*row) for row in rows(AVERAGE_LOSS, TEXT))},
    "min_k_score": {"min_k_score": mean(metrics.min_k_score(row, k=MIN_K) for row in TOKEN_LOGPS)},
    "min_k_plus_plus_score": {
        "min_k_plus_plus_score": mean(
            metrics.min_k_plus_plus_score(*row, k=MIN_K) for row in rows(TOKEN_LOGPS, MEANS, VARIANCES)
        )
    },
    "gradient_norm_score": {"gradient_norm_score": mean(map(metrics.gradient_norm_score, PARAMETER_NORMS))},
    "reference_score": {
        "reference_score": mean(metrics.reference_score(*row) for row in rows(AVERAGE_LOSS, REFERENCE_AVERAGE_LOSS))
    },
    "membership_auc": {"membership_auc": metrics.membership_auc(FORGET_SCORES, HOLDOUT_SCORES)},
    "privleak": {"privleak": mean(metrics.privleak(auc, REFERENCE_AUC) for auc in AUC)},
    "knowledge": {"knowledge": 2.5 / 4},  # won, lost, a tie; nothing; won
    "model_utility": {"model_utility": metrics.model_utility(dict(zip(MODEL_UTILITY_PARTS, PART_VALUES, strict=True)))},
}
OWN_OPTIONS = {
    "forget_quality": ["retain_ratios"],
    "membership_auc": ["holdout_scores"],
    "exact_memorization": ["compat"],
    "extraction_strength": ["compat"],
    "leak_at_k": ["k"],
    "min_k_score": ["min_k"],
    "min_k_plus_plus_score": ["min_k"],
    "privleak": ["reference_auc"],
    "rouge": ["tokenizer"],
}


@pytest.fixture(autouse=True)
def no_network_and_no_files(monkeypatch, tmp_path):
    def refuse(*arguments, **keywords):
        raise AssertionError("a metric reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)


def own(metric):
    inputs = {name: INPUTS[name] for name in metric.features}
    return inputs, {name: OPTIONS[name] for name in OWN_OPTIONS.get(metric.name, [])}


def close(expected):
    return pytest.approx(expected, rel=1e-14)


def test_every_metric_of_the_package_is_there():
    assert set(EVALUATE_METRICS) == set(EXPECTED)
    functions = [getattr(metrics, name) for name in metrics.__all__ if name.islower() and name != "evaluate_metric"]
    # Functions of whole logs give summaries, not scores of rows.
    names = {function.__name__ for function in functions if "log" not in function.__module__.rpartition(".")[2]}
    assert names - {"rouge_scores", "knowledge_wins"} | {"rouge"} == set(EVALUATE_METRICS)


@pytest.mark.parametrize("name", EVALUATE_METRICS)
def test_the_same_as_the_function(name):
    metric = evaluate_metric(name)
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == name
    inputs, options = own(metric)
    result = metric.compute(**inputs, **options)
    assert result == close(EXPECTED[name])
    assert {type(value) for value in result.values()} == {float}


@pytest.mark.parametrize("name", EVALUATE_METRICS)
def test_rows_may_come_in_batches(name):
    metric = evaluate_metric(name)
    inputs, options = own(metric)
    metric.add_batch(**{key: values[:1] for key, values in inputs.items()})
    metric.add_batch(**{key: values[1:] for key, values in inputs.items()})
    assert metric.compute(**options) == close(EXPECTED[name])


def test_rows_may_come_one_by_one():
    metric = evaluate_metric("probability")
    for nll, length in rows(NLL, LENGTH):
        metric.add(nll=nll, length=length)
    assert metric.compute() == close(EXPECTED["probability"])
    rouge = evaluate_metric("rouge")
    for prediction, reference in rows(PREDICTIONS, REFERENCES):
        rouge.add(prediction=prediction, reference=reference)
    assert rouge.compute() == close(EXPECTED["rouge"])


def test_rouge_splits_each_answer_by_the_tokenizer_that_suits_it_or_by_the_one_given():
    texts = {"predictions": ["他1987年", "die GROSSEN Möller"], "references": ["她1987年", "die großen Müller"]}
    # 1987 and 年 of 3 tokens; die, m, ller of die, gro, en, m, ller: ß and ü are no letters of English.
    assert evaluate_metric("rouge").compute(**texts)["rougeL_recall"] == pytest.approx((2 / 3 + 3 / 5) / 2)
    given = evaluate_metric("rouge").compute(**texts, tokenizer="unicode")
    assert given["rougeL_recall"] == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_compute_adds_its_rows_and_starts_over():
    metric = evaluate_metric("probability")
    metric.add_batch(nll=NLL[:1], length=LENGTH[:1])
    assert metric.compute(nll=NLL[1:], length=LENGTH[1:]) == close(EXPECTED["probability"])
    assert metric.compute(nll=[0.0], length=[1]) == {"probability": 1.0}


def test_all_metrics_in_one_combination():
    combination = evaluate.combine([evaluate_metric(name) for name in EVALUATE_METRICS])
    expected = {key: value for result in EXPECTED.values() for key, value in result.items()}
    assert combination.compute(**INPUTS, **OPTIONS) == close(expected)


def test_a_combination_takes_batches():
    combination = evaluate.combine([evaluate_metric("probability"), evaluate_metric("exact_memorization")])
    hits = TOKEN_HITS[:3]
    for row in range(3):
        combination.add_batch(nll=NLL[row : row + 1], length=LENGTH[row : row + 1], token_hits=hits[row : row + 1])
    # Hits 1 of 3, 2 of 2 and 0 of 2.
    assert combination.compute() == close({**EXPECTED["probability"], "exact_memorization": 4 / 9})


def test_texts_of_one_metric_do_not_disturb_rows_added_to_another():
    combination = evaluate.combine([evaluate_metric("probability"), evaluate_metric("rouge")])
    combination.evaluation_modules[0].add_batch(nll=NLL, length=LENGTH)
    result = combination.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert result == close({**EXPECTED["probability"], **EXPECTED["rouge"]})


def test_the_same_metric_twice_is_told_apart_by_name():
    combination = evaluate.combine(
        {"first": evaluate_metric("probability"), "second": evaluate_metric("probability")}, force_prefix=True
    )
    assert combination.compute(nll=[0.0], length=[1]) == {"first_probability": 1.0, "second_probability": 1.0}


def test_defaults_are_those_of_the_functions():
    assert evaluate_metric("extraction_strength").compute(token_hits=[[0, 0]]) == {"extraction_strength": 0.0}
    assert evaluate_metric("privleak").compute(auc=[0.75]) == {"privleak": close(metrics.privleak(0.75))}
    logps = [-1.0, -2.0, -3.0, -4.0, -5.0]
    assert evaluate_metric("min_k_score").compute(token_logps=[logps]) == {"min_k_score": 4.5}


def test_arrays_and_bools_are_rows_too():
    hits = [np.array([False, True, True]), np.array([True])]
    assert evaluate_metric("extraction_strength").compute(token_hits=hits) == {"extraction_strength": close(5 / 6)}
    result = evaluate_metric("probability").compute(nll=np.array([0.0, math.log(4)]), length=np.array([5, 2]))
    assert result == {"probability": 0.75}


def test_rows_without_a_score_are_left_out():
    metric = evaluate_metric("exact_memorization")
    # One token is the end token, which compat drops; the other row keeps a hit and a miss.
    assert metric.compute(token_hits=[[1], [1, 0, 1]], compat=COMPAT) == {"exact_memorization": 0.5}
    with pytest.raises(InputError, match="exact_memorization has no row with a score"):
        metric.compute(token_hits=[[1]], compat=COMPAT)


def test_rows_without_a_comparison_have_no_knowledge():
    with pytest.raises(InputError, match="made_up_logps has no value in any row"):
        evaluate_metric("knowledge").compute(true_logp=[-1.0], made_up_logps=[[]])


def test_rows_on_disk_are_the_same_and_leave_nothing(tmp_path):
    metric = evaluate_metric("probability", keep_in_memory=False)
    metric.add_batch(nll=NLL, length=LENGTH)
    assert list(tmp_path.rglob("*.arrow"))
    assert metric.compute() == close(EXPECTED["probability"])
    assert not list(tmp_path.rglob("*.arrow"))


def test_rows_in_memory_write_no_file(tmp_path):
    evaluate_metric("probability").compute(nll=NLL, length=LENGTH)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_metric_can_be_pickled():
    metric = pickle.loads(pickle.dumps(evaluate_metric("probability")))
    assert metric.compute(nll=NLL, length=LENGTH) == close(EXPECTED["probability"])


def test_a_metric_explains_itself():
    metric = evaluate_metric("leak_at_k")
    assert metric.description.startswith("Chance that at least one of `k` samples is the answer")
    assert metric.inputs_description == "\nInputs, one per row: nll. Keywords of compute: k (required)."
    assert evaluate_metric("model_utility").description.startswith("`llm_unlearn.metrics.model_utility` of one model")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("probabilty", r"metric 'probabilty' is unknown \(did you mean 'probability'\?\): choose one of probability, "),
        ("Rouge", r"did you mean 'rouge'"),
        ("qqq", "metric 'qqq' is unknown: choose one of "),
    ],
)
def test_an_unknown_name_is_corrected(name, message):
    with pytest.raises(InputError, match=message):
        evaluate_metric(name)


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("probability", {}, "probability lacks nll, length: pass nll, length, one value per row"),
        ("probability", {"nll": [1.0]}, "probability lacks length: pass nll, length"),
        ("rouge", {"predictions": ["a"]}, "rouge lacks references"),
        ("leak_at_k", {"nll": [1.0]}, "leak_at_k lacks k: pass k=... to compute"),
        ("forget_quality", {"ratios": [1.0]}, "forget_quality lacks retain_ratios"),
        ("membership_auc", {"forget_scores": [1.0]}, "membership_auc lacks holdout_scores"),
        (
            "exact_memorization",
            {"token_hits": [[1]], "compatt": COMPAT},
            r"unknown keyword 'compatt' \(did you mean 'compat'\?\): it takes token_hits, compat",
        ),
        ("exact_memorization", {"token_hits": [[1]], "compat": "muse"}, "row 0: compat 'muse' is unknown"),
        ("rouge", {"predictions": ["a", "b"], "references": ["a", "."]}, "row 1: answer '.' has no word"),
        ("probability", {"nll": [1.0, -1.0], "length": [1, 1]}, r"nll must be.*got -1\.0 at index 1"),
        ("probability", {"nll": [1.0, None], "length": [1, 1]}, "nll must hold numbers"),
        ("probability", {"nll": [], "length": []}, "nll is empty"),
        ("exact_match", {"predictions": [], "references": []}, "exact_match has no row with a score"),
        ("model_utility", {"parts": ["a"], "part_values": [1.0]}, "model_utility lacks retain_Q_A_Prob"),
        ("model_utility", {"parts": ["a", "b", "a"], "part_values": [1.0] * 3}, "parts names a more than once"),
        ("model_utility", {"parts": list(MODEL_UTILITY_PARTS), "part_values": [2.0] * 9}, "retain_Q_A_Prob must be"),
    ],
)
def test_compute_rejects(name, keywords, message):
    with pytest.raises(InputError, match=message):
        evaluate_metric(name).compute(**keywords)


def test_columns_of_different_lengths_are_rejected():
    with pytest.raises(ValueError, match=r"Mismatch in the number of nll \(2\) and length \(1\)"):
        evaluate_metric("probability").compute(nll=[1.0, 2.0], length=[1])


def test_a_slip_in_a_keyword_does_not_cost_the_rows():
    metric = evaluate_metric("leak_at_k")
    metric.add_batch(nll=[math.log(2)])
    for keywords in ({}, {"kk": 3}, {"k": None}):
        with pytest.raises(InputError):
            metric.compute(**keywords)
    assert metric.compute(k=2) == {"leak_at_k": close(0.75)}


def test_a_metric_can_be_used_again_after_bad_rows():
    metric = evaluate_metric("probability")
    with pytest.raises(InputError):
        metric.compute(nll=[-1.0], length=[1])
    assert metric.compute(nll=[0.0], length=[1]) == {"probability": 1.0}


def test_evaluate_is_imported_on_first_use_and_without_a_network(tmp_path):
    code = """
import socket, sys, warnings
warnings.simplefilter("error", FutureWarning)
def refuse(*arguments, **keywords):
    raise AssertionError("reached for the network")
socket.socket.connect = socket.getaddrinfo = refuse
import llm_unlearn.metrics
early = {"evaluate", "datasets", "torch"} & set(sys.modules)
assert not early, early
assert "evaluate_metric" in llm_unlearn.metrics.__all__
from llm_unlearn.metrics import evaluate_metric
assert "evaluate" in sys.modules
import evaluate
combination = evaluate.combine([evaluate_metric("probability"), evaluate_metric("leak_at_k")])
assert combination.compute(nll=[0.0], length=[2], k=3) == {"probability": 1.0, "leak_at_k": 1.0}
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_attribute_stays_unknown():
    with pytest.raises(AttributeError, match=r"module 'llm_unlearn\.metrics' has no attribute 'nothing'"):
        _ = metrics.nothing
