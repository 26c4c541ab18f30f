"""Answers packed into trees: the structure by hand, and the scores against rows of their own."""

import pytest
import torch
from builders import tiny_model, tiny_tokenizer, with_trained_adapter
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from llm_unlearn.models import scoring
from llm_unlearn.models.answer_trees import answer_trees, pad_trees
from llm_unlearn.models.scoring import score_answers


def row(prompt, answer):
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


#           10 - 11 - 20 - 21 - (22)
#                        \ - 23 - (22)        and 20 - (21) ends where the first goes on
ROWS = [row([10, 11], [20, 21, 22]), row([10, 11], [20, 23, 22]), row([10, 11], [20, 21])]


def test_a_tree_by_hand():
    (tree,) = answer_trees(ROWS)
    assert tree.tokens == [10, 11, 20, 21, 23]  # no node for a last token, one for each different beginning
    assert tree.parents == [-1, 0, 1, 2, 2]
    assert tree.depths == [0, 1, 2, 3, 3]
    assert tree.rows == [0, 1, 2]
    assert tree.predictors == [[1, 2, 3], [1, 2, 4], [1, 2]]
    assert tree.answers == [[20, 21, 22], [20, 23, 22], [20, 21]]
    assert tree.first_predictor == 1
    assert not tree.is_chain
    assert tree.ancestors().int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 0, 1],  # 23 does not see 21
    ]


def test_what_shares_nothing_is_a_plain_row():
    trees = answer_trees([row([1, 2], [3, 4]), row([1], [2, 3, 4])])  # the same ids, another prompt
    assert [tree.tokens for tree in trees] == [[1, 2, 3], [1, 2, 3]]
    assert [tree.predictors for tree in trees] == [[[1, 2]], [[0, 1, 2]]]
    assert all(tree.is_chain for tree in trees)
    assert "position_ids" not in pad_trees(trees)


def test_equal_rows_and_beginnings_are_one_chain():
    (tree,) = answer_trees([ROWS[0], ROWS[2], ROWS[0]])
    assert tree.is_chain
    assert tree.tokens == [10, 11, 20, 21]
    assert [t.rows for t in answer_trees([ROWS[0], ROWS[2], ROWS[0]], share_prompts=False)] == [[0, 2], [1]]


def test_a_padded_batch(monkeypatch):
    monkeypatch.setattr("llm_unlearn.models.answer_trees.ROUND_NUMBER", 1)
    batch = pad_trees(answer_trees([*ROWS, row([7], [8, 9])]))
    assert batch["input_ids"].tolist() == [[10, 11, 20, 21, 23], [7, 8, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 3], [0, 1, 0, 0, 0]]
    assert batch["wanted"].int().tolist() == [[0, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch["attention_mask"].shape == (2, 1, 5, 5)
    assert batch["attention_mask"][1, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize(("count", "length"), [(1, 16), (2, 8), (3, 16), (16, 2)])
def test_batches_have_a_round_number_of_positions(count, length):
    assert pad_trees(answer_trees([row([i], [99, 98]) for i in range(count)]))["input_ids"].shape == (count, length)


def many_rows():
    generator = torch.Generator().manual_seed(0)

    def tokens(count):
        return torch.randint(5, len(tiny_tokenizer()), (count,), generator=generator).tolist()

    rows = []
    for length in (2, 5, 9):
        prompt, stem = tokens(length), tokens(3)
        rows += [row(prompt, tokens(count)) for count in (1, 4, 8)]
        rows += [row(prompt, stem + tokens(count)) for count in (1, 2, 6)]
        rows.append(row(prompt, stem))
    return [*rows, row(tokens(6), tokens(4)), rows[1]]


def scores_by_row(model, rows, **options):
    return [score_answers(model, [one], **options)[0] for one in rows]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_shared_scores_are_those_of_single_rows(family, attention):
    model, rows = tiny_model(family), many_rows()
    model.set_attn_implementation(attention)
    for ours, alone in zip(score_answers(model, rows, batch_size=9), scores_by_row(model, rows), strict=True):
        assert ours.token_logps == pytest.approx(alone.token_logps, abs=1e-4)
        assert ours.token_hits == alone.token_hits


def test_shared_scores_through_an_adapter():
    model, rows = with_trained_adapter(tiny_model()), many_rows()
    for ours, alone in zip(score_answers(model, rows), scores_by_row(model, rows), strict=True):
        assert ours.token_logps == pytest.approx(alone.token_logps, abs=1e-4)


def forwarded(model, rows):
    """Tokens that the model is given."""
    seen = []
    handle = model.model.embed_tokens.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].numel()))
    score_answers(model, rows)
    handle.remove()
    return sum(seen)


def test_no_token_is_forwarded_twice(monkeypatch):
    monkeypatch.setattr("llm_unlearn.models.answer_trees.ROUND_NUMBER", 1)
    model = tiny_model()
    long = [row([10, 11, 12, 13], [20, 21, 22]), row([10, 11, 12, 13], [20, 23, 22])]
    tree = 4 + 3  # the prompt, 20, 21 and 23
    assert forwarded(model, long) == tree + tree + 2 * 6  # the comparison that allows sharing: this tree and its rows
    assert forwarded(model, [long[0]] * 3) == 6


@pytest.mark.parametrize("window", [8, 64])
def test_a_window_shorter_than_the_row_is_not_shared(window, monkeypatch):
    config = MistralConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
    )
    torch.manual_seed(0)
    model, rows = MistralForCausalLM(config).eval(), many_rows()
    batches = []
    monkeypatch.setattr(scoring, "pad_trees", lambda trees: batches.append(trees) or pad_trees(trees))
    for ours, alone in zip(score_answers(model, rows), scores_by_row(model, rows), strict=True):
        assert ours.token_logps == pytest.approx(alone.token_logps, abs=1e-4)
    assert any(not tree.is_chain for trees in batches for tree in trees) == (window == 64)


class IgnoresItsMask(LlamaForCausalLM):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        return super().forward(input_ids, (input_ids >= 0).long(), position_ids, **kwargs)


class RejectsTrees(LlamaForCausalLM):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        _rows, _length = attention_mask.shape
        return super().forward(input_ids, attention_mask, position_ids, **kwargs)


@pytest.mark.parametrize(
    ("family", "warning"),
    [
        (IgnoresItsMask, "IgnoresItsMask scores answers in a shared row differently"),
        (RejectsTrees, "RejectsTrees cannot score answers in a shared row (too many values to unpack"),
    ],
)
def test_a_model_that_does_not_take_trees_is_found_out(family, warning, caplog):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=1.0,  # a trained model's attention matters
    )
    model, rows = family(config).eval(), many_rows()
    ours = score_answers(model, rows, batch_size=1)
    assert warning in caplog.text
    for one, alone in zip(ours, scores_by_row(model, rows), strict=True):
        assert one.token_logps == pytest.approx(alone.token_logps, abs=1e-4)


def test_vocabulary_statistics_by_hand():
    model = tiny_model()
    rows = [row([10, 11], [20, 21]), row([10, 11], [20, 22]), row([12], [13])]
    scores = score_answers(model, rows, vocabulary_statistics={1, 2})
    assert scores[0].vocabulary_means is None and scores[0].vocabulary_variances is None
    for i in (1, 2):
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([rows[i]["input_ids"]])).logits[0].log_softmax(-1)
        answer = len(scores[i].token_logps)
        expected = logps[-1 - answer : -1]
        means = (expected.exp() * expected).sum(-1)
        variances = (expected.exp() * (expected - means[:, None]).square()).sum(-1)
        assert scores[i].vocabulary_means == pytest.approx(means.tolist(), abs=1e-4)
        assert scores[i].vocabulary_variances == pytest.approx(variances.tolist(), abs=1e-4)
