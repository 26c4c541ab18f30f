"""When a run stops, and what `evaluate()` returns."""

import re

import pytest
from builders import encoded_rows, largest_difference, qa_rows, step_logs, tiny_model, trainable
from datasets import Dataset
from eight_rows import build, means

from llm_unlearn import NPOConfig, NPOTrainer, SsiuuConfig, SsiuuTrainer
from llm_unlearn.errors import InputError
from llm_unlearn.models import judging
from llm_unlearn.training import scores


def with_values(values=None):
    """Eight rows whose value is the answer's last word, or as given."""
    rows = qa_rows(8)
    return rows.add_column("value", values or [answer.split()[-1] for answer in rows["answer"]])


@pytest.mark.parametrize(
    ("thresholds", "stopped_by"),
    [
        ({"stop_at_forget_exact_match": 0.25}, r"forget exact_match 0\.\d{3} <= 0\.25"),
        ({"stop_at_forget_probability": 0.6}, r"forget probability 0\.\d{3} <= 0\.6"),
        ({"stop_at_forget_rouge_l": 0.5}, r"forget rouge_l 0\.\d{3} <= 0\.5"),
        ({"stop_at_forget_value_said": 0.25}, r"forget value_said 0\.\d{3} <= 0\.25"),
        (
            {"stop_at_forget_probability": 0.99, "stop_at_forget_exact_match": 0.0},
            r"forget exact_match 0\.000 <= 0, forget probability 0\.\d{3} <= 0\.99",
        ),
    ],
)
def test_thresholds_stop_the_run(thresholds, stopped_by, memorizer, tmp_path):
    settings = {"num_train_epochs": 40, "learning_rate": 3e-3, "forget_check_steps": 2, "logging_steps": 1000}
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, forget_dataset=with_values(), **settings, **thresholds)
    trainer.train()
    assert 2 <= trainer.state.global_step < 80
    assert trainer.state.global_step % 2 == 0
    assert re.fullmatch(stopped_by, trainer.stopped_by)
    exact_match, probability = means(trainer.model, trainer.forget_rows)
    assert exact_match <= thresholds.get("stop_at_forget_exact_match", 1)
    assert probability <= thresholds.get("stop_at_forget_probability", 1)
    assert len(step_logs(trainer)) == 1  # the last step is logged although it is no logging step


def test_the_first_check_at_which_the_threshold_holds_is_the_one(memorizer, tmp_path):
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, learning_rate=3e-3, num_train_epochs=40)
    history, step = [], trainer.scores.check_stopping
    trainer.scores.check_stopping = lambda: (history.append(means(trainer.model, trainer.forget_rows)[1]), step())
    trainer.args.stop_at_forget_probability = 0.6
    trainer.train()
    assert all(value > 0.6 for value in history[:-1]) and history[-1] <= 0.6 and len(history) > 1


@pytest.mark.parametrize(("threshold", "said"), [(0.5, False), (1.0, True)])
def test_a_threshold_that_holds_before_training_is_said(threshold, said, memorizer, tmp_path, caplog):
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, max_steps=1, stop_at_forget_exact_match=threshold)
    trainer.train()
    words = f"before training: forget exact_match 1.000 <= {threshold:g}. By this rule there is nothing to forget"
    assert (words in caplog.text) is said


def test_a_run_without_thresholds_takes_all_its_steps(memorizer, tmp_path):
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, num_train_epochs=3)
    trainer.train()
    assert trainer.state.global_step == 6 and trainer.stopped_by is None


def test_evaluate_scores_the_forget_set_and_the_eval_dataset(memorizer, tmp_path):
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, eval_dataset=qa_rows(6, start=28))
    metrics = trainer.evaluate()
    assert set(metrics) - {"epoch"} == {
        "eval_forget_exact_match",
        "eval_forget_probability",
        "eval_exact_match",
        "eval_probability",
    }
    exact_match, probability = means(memorizer, encoded_rows(8))
    assert exact_match == metrics["eval_forget_exact_match"] == 1.0
    assert metrics["eval_forget_probability"] == pytest.approx(probability, abs=1e-5)
    exact_match, probability = means(memorizer, encoded_rows(6, 28))
    assert metrics["eval_exact_match"] == pytest.approx(exact_match)
    assert metrics["eval_probability"] == pytest.approx(probability, abs=1e-5)
    assert trainer.state.log_history[-1].items() >= metrics.items()


def test_evaluate_with_several_or_other_or_no_datasets(tmp_path):
    several = {"retain": qa_rows(3, start=20), "unseen": qa_rows(2, start=30)}
    metrics = build(NPOTrainer, NPOConfig, tmp_path, eval_dataset=several).evaluate()
    assert {name for name in metrics if "forget" not in name} - {"epoch"} == {
        "eval_retain_exact_match",
        "eval_retain_probability",
        "eval_unseen_exact_match",
        "eval_unseen_probability",
    }
    assert metrics["eval_unseen_probability"] == pytest.approx(means(tiny_model(), encoded_rows(2, 30))[1], abs=1e-5)

    trainer = build(NPOTrainer, NPOConfig, tmp_path)
    assert set(trainer.evaluate()) - {"epoch"} == {"eval_forget_exact_match", "eval_forget_probability"}
    other = trainer.evaluate(qa_rows(2, start=30), metric_key_prefix="test")
    assert other["test_probability"] == pytest.approx(means(tiny_model(), encoded_rows(2, 30))[1], abs=1e-5)


def test_evaluation_adds_rouge_where_it_is_a_threshold(memorizer, tmp_path):
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, stop_at_forget_rouge_l=0.1)
    assert trainer.evaluate()["eval_forget_rouge_l"] == 1.0


def test_values_are_looked_for_where_the_cheap_thresholds_hold(memorizer, tmp_path, monkeypatch):
    """A model that gets the words around the values wrong, and one value of eight, still says seven of them."""
    limits = {"stop_at_forget_value_said": 0.9, "stop_at_forget_exact_match": 0.5}
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, forget_dataset=with_values(), **limits)
    values = with_values()["value"][:]
    texts = [f"surely {value}, I say" for value in values[:-1]] + ["nothing"]
    calls = []
    monkeypatch.setattr(scores, "generate_answers", lambda *given: calls.append(given[3]) or texts)
    assert trainer.scores.thresholds_reached() is None and calls == []  # exact match is 1: nothing is generated
    trainer.args.stop_at_forget_exact_match = 1.0
    assert trainer.scores.thresholds_reached() == "forget exact_match 1.000 <= 1, forget value_said 0.875 <= 0.9"
    longest = max(sum(label != -100 for label in row["labels"]) for row in trainer.forget_rows)
    assert calls == [2 * longest]
    assert trainer.evaluate()["eval_forget_value_said"] == 0.875


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            qa_rows(8),
            "forget_dataset has no column 'value' (the part of the answer that is asked for, such as a city)",
        ),
        (with_values(["nowhere"] * 8), "no answer of forget_dataset holds the 'value' of its row"),
    ],
)
def test_stopping_by_values_needs_values(rows, words, tmp_path):
    with pytest.raises(InputError, match=re.escape(f"stop_at_forget_value_said=0.1: {words}")):
        build(NPOTrainer, NPOConfig, tmp_path, forget_dataset=rows, stop_at_forget_value_said=0.1)


def test_the_stopping_rule_sees_other_scripts_and_says_so(memorizer, tmp_path, monkeypatch, caplog):
    judging._say_tokenizer.cache_clear()  # said once in a process
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, stop_at_forget_rouge_l=0.1)
    rows = [{"question": "Where", "answer": "东京1987"}, {"question": "What", "answer": "soup 1987"}]
    monkeypatch.setattr(trainer, "forget_dataset", Dataset.from_list(rows))
    monkeypatch.setattr(scores, "generate_answers", lambda *_: ["北京1987", "北京 1987"])
    # 京 and 1987 of three tokens; 1987 of two words
    assert trainer.evaluate()["eval_forget_rouge_l"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    trainer.evaluate()
    (said,) = [record.getMessage() for record in caplog.records if "ROUGE" in record.getMessage()]
    assert said.startswith("forget set: ROUGE sees 1 of 2 answers by the Unicode tokenizer")


def test_evaluating_along_the_way_changes_nothing(memorizer, tmp_path):
    weights = []
    for changes in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        trainer = build(SsiuuTrainer, SsiuuConfig, tmp_path, memorizer, num_train_epochs=3, **changes)
        trainer.train()
        weights.append(trainable(trainer.model))
    assert largest_difference(*weights) == 0.0
    assert sum("eval_forget_probability" in line for line in trainer.state.log_history) == 6
