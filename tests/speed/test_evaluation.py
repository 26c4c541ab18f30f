"""The speed measurement counts the right tokens and compares equal work."""

import json

import pytest
import torch
from builders import encoded_rows, qa_rows, tiny_model, tiny_tokenizer
from datasets import Dataset

from llm_unlearn.data import UnlearningData
from llm_unlearn.metrics import min_k_plus_plus_score
from llm_unlearn.models.scoring import score_answers
from llm_unlearn.speed.evaluation import (
    Measurement,
    SpeedArguments,
    average_losses,
    first_choices,
    naive_scores,
    token_logps,
    vocabulary_statistics,
)


def test_the_baseline_computes_what_the_package_computes():
    model, rows = tiny_model(), encoded_rows(5)
    ours = score_answers(model, rows, vocabulary_statistics=range(5))
    assert naive_scores(model, rows, average_losses) == pytest.approx([s.nll / s.length for s in ours], rel=1e-4)
    assert naive_scores(model, rows, first_choices) == [list(score.token_hits) for score in ours]
    for logps, values, score in zip(
        naive_scores(model, rows, token_logps), naive_scores(model, rows, vocabulary_statistics), ours, strict=True
    ):
        assert logps == pytest.approx(score.token_logps, abs=1e-4)
        columns = (score.token_logps, score.vocabulary_means, score.vocabulary_variances)
        assert -min(values) == pytest.approx(min_k_plus_plus_score(*columns, k=1e-9), rel=1e-3)


def test_a_measurement(capsys):
    forget = [row | {"perturbed_answer": ["in Oslo", "a red cat"]} for row in qa_rows(6)]
    data = UnlearningData(
        forget=Dataset.from_list(forget),
        retain=qa_rows(8, 10),
        holdout=qa_rows(4, 20),
        evaluation={},
        source="rows of a test",
    )
    torch.manual_seed(0)
    arguments = SpeedArguments(generated_tokens=2, max_length=None)
    measured = Measurement(arguments, data, tiny_tokenizer(), tiny_model()).run()
    json.dumps(measured, allow_nan=False)
    rows = 6 + 2 * 6 + 8 + 4
    assert measured["stages"]["scoring"]["rows"] == rows
    # Every row but its last token, minus what the three answers to a question share: at least its six tokens.
    assert measured["stages"]["scoring"]["tokens"] <= measured["tokens_as_single_rows"] - 6 * 2 * 6
    naive = {name for name in measured["stages"] if name.startswith("metric by metric")}
    assert len(naive) == 2 + 1 + 2 + 4  # answers of two sets, wrong answers, memorization, membership
    assert measured["stages"]["metric by metric: mia_loss"]["rows"] == 6 + 4
    assert measured["stages"]["generation of 2 tokens a row"]["rows"] == 6 + 8
    assert measured["largest_difference_in_avg_loss"] < 1e-4
    assert "x its floor" in capsys.readouterr().out
