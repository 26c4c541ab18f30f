"""Answer tokens weighted by how much they depend on whom is asked."""

import math

import pytest
import torch
from builders import (
    NAMES,
    arguments,
    largest_difference,
    lora_config,
    qa_rows,
    step_logs,
    tiny_model,
    tiny_tokenizer,
    trainable,
)

from llm_unlearn import NPOConfig, NPOTrainer, embedded_model, load_unlearning_data
from llm_unlearn.data.collators import FORGET, RETAIN, UnlearnCollator
from llm_unlearn.errors import InputError
from llm_unlearn.methods import keywords, load_methods
from llm_unlearn.methods.keywords import logps_of_shared, on_answer, shuffled, token_weights
from llm_unlearn.models.answers import Answers

METHODS = load_methods()


def people_rows(count, start=0):
    rows = qa_rows(count, start)
    people = [next(name for name in NAMES if name in question.split()) for question in rows["question"]]
    return rows.add_column("person", people)


def build(folder, method="npo", *, lora=True, forget=None, **changes):
    return METHODS[method].trainer(
        model=tiny_model(),
        args=arguments(METHODS[method].config, folder, **{"forget_tokens": "keywords"} | changes),
        forget_dataset=people_rows(8) if forget is None else forget,
        retain_dataset=people_rows(10, start=20),
        processing_class=tiny_tokenizer(),
        peft_config=lora_config() if lora else None,
    )


# ---- by hand -------------------------------------------------------------------------------------------------------


def test_tokens_around_another_name_are_found_again():
    """ "Ann Lee lives in Oslo" told of a Bo with one token for a name."""
    found = logps_of_shared([7, 8, 1, 2, 3], [9, 1, 2, 3], [-5.0, -1.0, -2.0, -3.0])
    assert found == [None, None, -1.0, -2.0, -3.0]


def test_weights_by_hand():
    """In order: said of anybody; likelier of others; twice the cap; a name; 1 against a mean probability of 0.3."""
    of_others = [[-0.1, 0.0, -4.0, None, math.log(0.5)], [-0.1, 0.0, -4.0, None, math.log(0.1)]]
    weights = token_weights([-0.1, -1.0, 0.0, 0.0, 0.0], of_others)
    assert weights == pytest.approx([0.0, 0.0, 1.0, 0.0, -math.log(0.3) / 2], abs=1e-6)


def test_a_token_that_some_answers_have_counts_by_those():
    assert token_weights([0.0], [[None], [-1.0]]) == pytest.approx([0.5])


def test_shuffled_weights_are_the_same_ones_elsewhere():
    weights = [[0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [1.0, 0.0]]
    drawn = shuffled(weights, seed=1)
    assert [sorted(row) for row in drawn] == [sorted(row) for row in weights]
    assert drawn != weights and drawn == shuffled(weights, seed=1) != shuffled(weights, seed=2)


def test_weights_stand_where_the_answer_does():
    assert on_answer([-100, -100, 5, 6], [0.25, 1.0]) == [0.0, 0.0, 0.25, 1.0]


def test_sums_and_lengths_are_weighted_and_numbers_of_tokens_are_not():
    answers = Answers(
        None,
        labels=torch.tensor([4, 5, 6, 7, 8]),
        token_rows=torch.tensor([0, 0, 0, 1, 2]),
        roles=torch.tensor([FORGET, FORGET, RETAIN]),
        token_weights=torch.tensor([1.0, 0.0, 0.5, 0.25, 1.0]),
    )
    answers.token_logps = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0])
    assert answers.logps.tolist() == [-2.5, -1.0, -5.0] and answers.lengths.tolist() == [1.5, 0.25, 1.0]
    assert answers.tokens.tolist() == [3, 1, 1]
    assert answers.forget.logps.tolist() == [-2.5, -1.0] and answers.retain.logps.tolist() == [-5.0]


def test_rows_without_weights_count_whole_in_a_batch():
    rows = [
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "weights": [0.0, 0.5, 1.0], "role": FORGET, "index": 0},
        {"input_ids": [1, 2], "labels": [-100, 2], "role": RETAIN, "index": 0},
    ]
    batch = UnlearnCollator(0)([{"forget": rows[0], "retain": rows[1]}])
    assert batch["weights"].tolist() == [[0.0, 0.5, 1.0], [1.0, 1.0, 1.0]]
    assert "weights" not in UnlearnCollator(0)([{"retain": rows[1]}])


# ---- trained -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["answer", "token"])
def test_npo_starts_at_its_reference_and_pulls_at_keywords_as_without_weights(unit, tmp_path):
    trainer = build(tmp_path, beta=0.5, forget_loss_unit=unit)
    batch = trainer.data_collator([trainer.train_dataset[0, 0, -1]])
    answers = trainer.compute_answers(trainer.model, batch)
    answers.token_logps = answers.token_logps.detach().requires_grad_()
    trainer.reference.add_to(answers, batch)
    losses = trainer.forget_loss(answers)
    row = trainer.forget_rows[0]
    weights = [weight for weight, label in zip(row["weights"], row["labels"], strict=True) if label != -100]
    divisor = len(weights) if unit == "token" else 1
    assert losses.tolist() == pytest.approx([2 / 0.5 * math.log(2) / divisor], rel=1e-5)
    losses.sum().backward()
    assert 0 < sum(weights) < len(weights)
    # At the reference NPO's gradient is gradient ascent's: 1, or 1 / tokens.
    assert answers.token_logps.grad[: len(weights)].tolist() == pytest.approx(
        [weight / divisor for weight in weights], rel=1e-5
    )


@pytest.mark.parametrize("method", ["npo", "sam", "ssiuu", "grad_ascent_backbone"])
def test_weights_of_one_change_nothing(method, tmp_path, monkeypatch):
    name, changes = ("ssiuu", {"backbone": "gradient_ascent"}) if method == "grad_ascent_backbone" else (method, {})
    whole = build(tmp_path / "whole", name, forget_tokens="all", **changes)
    monkeypatch.setattr(
        keywords, "keyword_weights", lambda _model, rows, *_: [[1.0] * len(row["labels"]) for row in rows]
    )
    weighted = build(tmp_path / "weighted", name, **changes)
    for trainer in (whole, weighted):
        trainer.train()
    assert "weights" in weighted.forget_rows[0] and "weights" not in whole.forget_rows[0]
    assert largest_difference(trainable(whole.model), trainable(weighted.model)) < 1e-5


@pytest.mark.parametrize(("method", "lora"), [("npo", True), ("npo", False), ("sam", True), ("ssiuu", True)])
def test_accumulating_equals_one_batch(method, lora, tmp_path):
    runs = []
    for batch, accumulate in ((8, 1), (2, 4)):
        trainer = build(
            tmp_path / str(batch),
            method,
            lora=lora,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulate,
            learning_rate=1e-3,
            adam_epsilon=1e-4,
        )
        start = trainable(trainer.model)
        trainer.train()
        runs.append((trainable(trainer.model), step_logs(trainer)))
    assert largest_difference(start, runs[0][0]) > 1e-4
    assert largest_difference(runs[0][0], runs[1][0]) < 1e-5
    for whole, accumulated in zip(runs[0][1], runs[1][1], strict=True):
        assert accumulated["forget/loss"] == pytest.approx(whole["forget/loss"], rel=1e-4)


def test_what_was_measured_is_kept(tmp_path, monkeypatch):
    first = build(tmp_path)
    monkeypatch.setattr(keywords, "keyword_weights", lambda *_: pytest.fail("measured again"))
    assert build(tmp_path).forget_rows == first.forget_rows
    rows = build(tmp_path, forget_tokens="shuffled").forget_rows
    assert [sorted(row["weights"]) for row in rows] == [sorted(row["weights"]) for row in first.forget_rows]
    assert rows != first.forget_rows


def test_weights_belong_to_a_checkpoint(tmp_path, monkeypatch):
    """They depend on more than the forget rows: on whom retain rows name, for one."""
    build(tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
    monkeypatch.setattr(keywords, "CAP", 1.0)
    again = build(tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    with pytest.raises(InputError, match="forget_dataset"):
        again.train(resume_from_checkpoint="last")


def test_other_trainers_on_the_same_rows_see_no_weights(tmp_path):
    """Encoded rows are shared by all that encode the same data set."""
    forget = people_rows(8)
    assert "weights" in build(tmp_path / "a", forget=forget).forget_rows[0]
    assert "weights" not in build(tmp_path / "b", forget=forget, forget_tokens="all").forget_rows[0]


def test_in_the_fictional_world_values_are_the_keywords(tmp_path):
    data, folder = load_unlearning_data("fictional:tiny"), str(embedded_model("tiny"))
    args = NPOConfig(output_dir=str(tmp_path), forget_tokens="keywords", use_cpu=True, disable_tqdm=True)
    trainer = NPOTrainer(model=folder, args=args, forget_dataset=data.forget, retain_dataset=data.retain)
    of_values, of_others = [], []
    for row, example in zip(trainer.forget_rows, data.forget, strict=True):
        value = set(trainer.processing_class(" " + example["value"])["input_ids"])
        for weight, label in zip(row["weights"], row["labels"], strict=True):
            if label != -100:
                (of_values if label in value else of_others).append(weight)
    # Of a value of several tokens the first ones say which it is, and the rest follows from them.
    assert sum(of_others) / len(of_others) < 0.01 and sum(of_values) / len(of_values) > 0.15


# ---- refused -------------------------------------------------------------------------------------------------------


def test_rows_that_do_not_name_their_person_are_refused(tmp_path):
    with pytest.raises(InputError, match="forget_tokens='keywords': the question of forget row 0 does not name its"):
        build(tmp_path, forget=qa_rows(8))


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="forget_tokens='some' is unknown; choose one of all, keywords, shuffled"):
        NPOConfig(output_dir=str(tmp_path), forget_tokens="some")
