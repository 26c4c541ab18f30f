"""The logit lens: the last block's is the model itself, whatever the family; pairs part where answers do."""

import pytest
import torch
from builders import FAMILIES, encoded_rows, tiny_model, with_trained_adapter

from llm_unlearn.audits.logit_lens import LensPair, lens_pairs, logit_lens
from llm_unlearn.errors import InputError


def some_pairs() -> list[LensPair]:
    """Every row's own answer against every other token as its first word."""
    pairs = []
    for number, row in enumerate(encoded_rows(6)):
        start = next(i for i, label in enumerate(row["labels"]) if label != -100)
        true = row["input_ids"][start]
        pairs += [LensPair(number, tuple(row["input_ids"][:start]), true, other) for other in (7, 12, 20, 30)]
    return pairs


def test_pairs_part_at_the_first_token_that_differs():
    true = {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, -100, 3, 4, 5]}
    other = {"input_ids": [1, 2, 3, 6, 5], "labels": [-100, -100, 3, 6, 5]}
    longer = {"input_ids": [1, 2, 3, 4, 8, 5], "labels": [-100, -100, 3, 4, 8, 5]}
    assert lens_pairs([true], [other]) == [LensPair(0, (1, 2, 3), 4, 6)]
    assert lens_pairs([true, true], [true, longer]) == [LensPair(1, (1, 2, 3, 4), 5, 8)]
    with pytest.raises(InputError, match="no row has an answer that differs"):
        lens_pairs([true], [true])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapted", [False, True])
def test_the_last_block_says_what_the_model_says(family, adapted):
    model = tiny_model(family)
    if adapted:
        model = with_trained_adapter(model)
    pairs = some_pairs()
    found = logit_lens(model, pairs, batch_size=4)
    wins: dict[int, list[bool]] = {}
    for pair in pairs:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([pair.context])).logits[0, -1]
        wins.setdefault(pair.row, []).append(bool(logits[pair.true_token] > logits[pair.other_token]))
    expected = {str(row): sum(values) / len(values) for row, values in wins.items()}
    assert {row: values[-1] for row, values in found["value_by_index"].items()} == pytest.approx(expected)
    assert found["by_layer"][-1] == pytest.approx(sum(expected.values()) / len(expected))
    assert len(found["by_layer"]) == 2 and found["chance"] == 0.5
    assert 0 < sum(found["by_layer"]) < 2  # both outcomes occur, or the comparison would show little


def test_inner_blocks_go_through_the_final_norm():
    model, pairs = tiny_model(), some_pairs()
    found = logit_lens(model, pairs)
    wins = []
    for pair in pairs:
        with torch.no_grad():
            states = model(input_ids=torch.tensor([pair.context]), output_hidden_states=True).hidden_states[1][0, -1]
            logits = model.lm_head(model.model.norm(states))
        wins.append(bool(logits[pair.true_token] > logits[pair.other_token]))
    assert found["by_layer"][0] == pytest.approx(sum(wins) / len(wins))


def test_batches_do_not_matter_and_ties_count_half():
    model, pairs = tiny_model("gpt2"), some_pairs()
    assert logit_lens(model, pairs, 1) == logit_lens(model, pairs, 100)
    same = [LensPair(0, pairs[0].context, 7, 7)]
    assert logit_lens(model, same)["by_layer"] == [0.5, 0.5]


def test_the_model_is_left_without_hooks():
    model = tiny_model().train()
    logit_lens(model, some_pairs())
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
