"""The supervised loop: its loss, its order of rows, what it trains and what it leaves alone."""

import copy

import pytest
import torch
from builders import encoded_rows, largest_difference, tiny_model, trainable, with_trained_adapter

from llm_unlearn import finetuning
from llm_unlearn.answers import forward_answers
from llm_unlearn.errors import DivergenceError
from llm_unlearn.finetuning import finetune
from llm_unlearn.scoring import score_answers

OPTIONS = {"learning_rate": 1e-2, "batch_size": 2, "seed": 0}


def trained(rows=None, model=None, **options):
    model = model or tiny_model()
    finetune(model, rows or encoded_rows(5), **{"steps": 7} | OPTIONS | options)
    return trainable(model)


def test_one_step_is_adamw_on_the_token_mean_of_answers():
    rows, model, reference = encoded_rows(2), tiny_model(), tiny_model()
    finetune(model, rows, **OPTIONS | {"steps": 1, "max_grad_norm": 1e9})
    scores = []
    for row in rows:
        labels = torch.tensor([row["labels"]])
        logits = reference(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        scores.append(torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum"))
    (sum(scores) / sum(label != -100 for row in rows for label in row["labels"])).backward()
    torch.optim.AdamW(reference.parameters(), lr=1e-2, weight_decay=0.0).step()
    # Adam's first step is as large as the learning rate wherever the gradient is clear of rounding.
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        clear = theirs.grad.abs() > 1e-4
        assert clear.any()
        torch.testing.assert_close(mine[clear], theirs[clear], atol=1e-5, rtol=1e-4)


def test_long_rows_run_apart_and_weigh_the_same(monkeypatch):
    short, long = encoded_rows(5), [{"input_ids": [4] * 40, "labels": [-100] * 38 + [4] * 2}]
    passes = []

    def counted(model, batch):
        passes.append(tuple(batch["input_ids"].shape))
        return forward_answers(model, batch)

    monkeypatch.setattr(finetuning, "forward_answers", counted)
    rows, options = [short[0], *long, *short[1:]], {"steps": 3, "batch_size": 6}
    apart = trained(rows, **options)
    assert [rows for rows, _ in passes] == [5, 1] * 3
    monkeypatch.setattr(finetuning, "_by_length", lambda rows: [rows])
    assert largest_difference(apart, trained(rows, **options)) < 1e-3  # the learning rate is 1e-2


def test_rows_of_similar_length_run_together():
    rows = encoded_rows(5)
    assert finetuning._by_length(rows) == [rows]
    assert finetuning._by_length(rows[:1]) == [rows[:1]]


def test_gradients_are_clipped():
    assert largest_difference(trained(max_grad_norm=1e-12), trainable(tiny_model())) < 1e-4
    assert largest_difference(trained(), trainable(tiny_model())) > 1e-2


def test_equal_seeds_give_equal_models_and_others_do_not():
    assert largest_difference(trained(), trained()) == 0.0
    assert largest_difference(trained(), trained(seed=1)) > 1e-3


def test_row_orders_and_after_step():
    steps, epochs = [], []

    def only_first_three(epoch):
        epochs.append(epoch)
        return [0, 1, 2]

    weights = trained(row_orders=only_first_three, after_step=steps.append)
    assert steps == [1, 2, 3, 4, 5, 6, 7] and epochs == [0, 1, 2, 3]  # two steps an epoch
    fewer = trained(rows=encoded_rows(3), row_orders=lambda _epoch: [0, 1, 2])
    assert largest_difference(weights, fewer) == 0.0


def test_only_trainable_parameters_change_and_the_model_ends_in_evaluation_mode():
    model = with_trained_adapter(tiny_model())
    before = copy.deepcopy(model.state_dict())
    finetune(model, encoded_rows(5), steps=3, **OPTIONS)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert not model.training


def test_warmup_and_schedule():
    flat = trained(steps=1)
    start = trainable(tiny_model())
    assert largest_difference(flat, start) == pytest.approx(1e-2, rel=1e-3)
    warming = trained(steps=1, warmup_steps=10, scheduler="constant_with_warmup")
    assert largest_difference(warming, start) == 0.0  # the first step of a warm-up has a learning rate of zero
    warmer = trained(steps=2, warmup_steps=10, scheduler="constant_with_warmup")
    assert 0 < largest_difference(warmer, start) < 2e-3  # the second one a tenth
    assert largest_difference(trained(steps=3, scheduler="linear"), trained(steps=3)) > 1e-3


def test_a_loss_that_diverges_is_an_error():
    with pytest.raises(DivergenceError, match=r"fine-tuning diverged at step 2; lower its learning rate 1e\+30"):
        trained(learning_rate=1e30)


def test_it_memorizes():
    model, rows = tiny_model(), encoded_rows(6)
    finetune(model, rows, learning_rate=5e-3, steps=60, batch_size=6, seed=0)
    assert all(score.exact_match and score.probability > 0.9 for score in score_answers(model, rows))
