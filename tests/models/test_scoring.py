"""Scores of given answers against a naive loop, and exact match against what greedy generation really says."""

import copy
import math

import pytest
import torch
from builders import encoded_rows, qa_rows, tiny_model, tiny_tokenizer, with_trained_adapter

from llm_unlearn.data import encode_prompt, encode_row, split_row
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.models.scoring import AnswerScore, generate_answers, score_answers


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def memorizer(request):
    """A model that learned rows 0 to 7 by heart and never saw rows 8 to 15."""
    model = tiny_model(request.param)
    finetune(model, encoded_rows(8), learning_rate=5e-3, steps=60, batch_size=8, seed=0)
    return model


def prompts(count):
    return [encode_prompt(tiny_tokenizer(), split_row(row, "question/answer")[0]) for row in qa_rows(count)]


@torch.no_grad()
def naive_score(model, row):
    """One row, one token at a time: (nll, length, is every token the first choice)."""
    nll, length, exact = 0.0, 0, True
    for position, label in enumerate(row["labels"]):
        if label != -100:
            probabilities = model(input_ids=torch.tensor([row["input_ids"][:position]])).logits[0, -1].softmax(-1)
            nll, length = nll - math.log(probabilities[label]), length + 1
            exact = exact and int(probabilities.argmax()) == label
    return nll, length, exact


@torch.no_grad()
def naive_greedy(model, prompt, limit=12):
    ids = list(prompt)
    while len(ids) < len(prompt) + limit:
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tiny_tokenizer().eos_token_id:
            break
    return ids[len(prompt) :]


def test_probability_is_the_geometric_mean_of_token_probabilities():
    score = AnswerScore((math.log(0.5), math.log(0.125)), (True, False))
    assert score.probability == pytest.approx(0.25)


def test_scores_equal_a_naive_loop(memorizer):
    rows = encoded_rows(16)
    scores = score_answers(memorizer, rows, batch_size=5)
    for row, score in zip(rows, scores, strict=True):
        nll, length, exact = naive_score(memorizer, row)
        assert score.nll == pytest.approx(nll, abs=1e-4)
        assert (score.length, score.exact_match) == (length, exact)


def test_batch_size_and_order_do_not_matter(memorizer):
    rows = encoded_rows(16)
    together, alone = score_answers(memorizer, rows, batch_size=8), score_answers(memorizer, rows, batch_size=1)
    backwards = score_answers(memorizer, rows[::-1], batch_size=8)[::-1]
    for other in (alone, backwards):
        assert [s.nll for s in together] == pytest.approx([s.nll for s in other], abs=1e-4)
        assert [(s.length, s.exact_match) for s in together] == [(s.length, s.exact_match) for s in other]


def test_exact_match_is_that_greedy_generation_gives_the_answer(memorizer):
    scores = score_answers(memorizer, encoded_rows(16))
    texts = generate_answers(memorizer, tiny_tokenizer(), prompts(16), max_new_tokens=12)
    assert [s.exact_match for s in scores[:8]] == [True] * 8
    assert not all(s.exact_match for s in scores[8:])
    assert [s.exact_match for s in scores] == [
        text == row["answer"] for text, row in zip(texts, qa_rows(16), strict=True)
    ]


def test_exact_match_counts_the_end_token(memorizer):
    """An answer that is right as far as it goes, but is not where the model stops."""
    tokenizer, (prompt, answer) = tiny_tokenizer(), split_row(qa_rows(8)[2], "question/answer")
    assert answer.split() == ["a", "green", "mouse"]
    whole, part = (encode_row(tokenizer, prompt, text) for text in (answer, "a green"))
    assert [s.exact_match for s in score_answers(memorizer, [whole, part])] == [True, False]


def test_generation_in_padded_batches_equals_one_by_one(memorizer):
    tokenizer, starts = tiny_tokenizer(), prompts(16)
    assert len({len(prompt) for prompt in starts}) > 1
    together = generate_answers(memorizer, tokenizer, starts, max_new_tokens=12, batch_size=16)
    assert together == generate_answers(memorizer, tokenizer, starts, max_new_tokens=12, batch_size=1)
    expected = [tokenizer.decode(naive_greedy(memorizer, start), skip_special_tokens=True) for start in starts]
    assert together == expected


def test_an_empty_prompt_starts_where_another_text_has_ended(memorizer):
    tokenizer = tiny_tokenizer()
    texts = generate_answers(memorizer, tokenizer, [[], prompts(1)[0]], max_new_tokens=12)
    expected = naive_greedy(memorizer, [tokenizer.eos_token_id])
    assert texts == [tokenizer.decode(expected, skip_special_tokens=True), qa_rows(1)[0]["answer"]]


def test_an_adapted_model_is_scored_with_its_adapter():
    base = tiny_model()
    adapted, rows = with_trained_adapter(base), encoded_rows(3)
    scores = score_answers(adapted, rows)
    assert [s.nll for s in scores] == pytest.approx([naive_score(adapted, row)[0] for row in rows], abs=1e-4)
    with adapted.disable_adapter():
        off = score_answers(adapted, rows)
    assert [s.nll for s in off] == pytest.approx([s.nll for s in score_answers(base, rows)], abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_restored(training):
    model, tokenizer = tiny_model("gpt2", resid_pdrop=0.5), tiny_tokenizer()
    model.train(training)
    first, second = (score_answers(model, encoded_rows(2)) for _ in range(2))
    assert first == second  # no dropout while scoring
    assert model.training is training
    generate_answers(model, tokenizer, prompts(2), max_new_tokens=2)
    assert model.training is training
    with pytest.raises(IndexError):
        score_answers(model, [{"input_ids": [10**6, 1], "labels": [-100, 1]}])
    assert model.training is training


def test_scoring_leaves_no_trace_on_the_model():
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    score_answers(model, encoded_rows(4))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert score_answers(model, []) == []
