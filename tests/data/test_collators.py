"""Pairing of forget with retain rows, filler, and padded batches."""

from itertools import islice

import pytest
import torch
from builders import mixed_batch, tiny_model

from llm_unlearn.data.collators import (
    ALTERNATE,
    FORGET,
    GENERAL,
    PADDING,
    RETAIN,
    PairedDataset,
    PairSampler,
    UnlearnCollator,
    pad_rows,
)
from llm_unlearn.models.answers import forward_answers


def row(*ids, answer=1):
    return {"input_ids": list(ids), "labels": [-100] * (len(ids) - answer) + list(ids)[-answer:]}


def pairs(sampler, epochs):
    """All pairs of the first epochs, filler left out."""
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found += [pair for pair in sampler if pair is not None]
    return found


@pytest.mark.parametrize(("forget_count", "retain_count", "general_count"), [(5, 7, 2), (7, 3, 11), (4, 4, 4)])
def test_every_row_is_used_once_before_any_repeats(forget_count, retain_count, general_count):
    sampler = PairSampler(forget_count, retain_count, seed=1, general_count=general_count)
    drawn = pairs(sampler, epochs=retain_count * general_count)
    for start in range(0, len(drawn), forget_count):
        assert sorted(f for f, _, _ in drawn[start : start + forget_count]) == list(range(forget_count))
    for start in range(0, len(drawn), retain_count):
        assert sorted(r for _, r, _ in drawn[start : start + retain_count]) == list(range(retain_count))
    for start in range(0, len(drawn), general_count):
        assert sorted(g for _, _, g in drawn[start : start + general_count]) == list(range(general_count))


def test_general_rows_move_no_pair_and_are_drawn_apart_from_retain_rows():
    plain, with_general = PairSampler(9, 12, seed=2, multiple=2), PairSampler(9, 12, 2, multiple=2, general_count=12)
    assert [(f, r, -1) for f, r, _ in pairs(with_general, epochs=3)] == pairs(plain, epochs=3)
    drawn = pairs(with_general, epochs=4)
    assert [r for _, r, _ in drawn] != [g for _, _, g in drawn]
    with_general.set_epoch(2)
    assert [row for row in with_general if row] == drawn[18:27]  # a function of the epoch, as after a resume


def test_pairs_are_a_function_of_seed_epoch_and_position():
    veteran, fresh = PairSampler(20, 30, seed=4), PairSampler(20, 30, seed=4)
    pairs(veteran, epochs=3)
    veteran.set_epoch(2)
    fresh.set_epoch(2)  # as after a resume: epochs 0 and 1 were never run here
    assert list(fresh) == list(veteran) == list(fresh)
    assert list(islice(fresh, 8, None)) == list(veteran)[8:]
    list(islice(veteran, 3))  # an iteration that was broken off leaves nothing behind
    assert list(veteran) == list(fresh)


def test_epochs_passes_and_seeds_differ():
    sampler = PairSampler(30, 30, seed=0)
    drawn = pairs(sampler, epochs=2)
    assert [f for f, _, _ in drawn[:30]] != [f for f, _, _ in drawn[30:]]
    assert [r for _, r, _ in drawn[:30]] != [r for _, r, _ in drawn[30:]]
    assert [f for f, _, _ in drawn[:30]] != [r for _, r, _ in drawn[:30]]
    assert drawn != pairs(PairSampler(30, 30, seed=1), epochs=2)


def test_filler_evens_out_the_last_batch_and_moves_no_pair():
    plain, filled = PairSampler(5, 7, seed=2), PairSampler(5, 7, seed=2, multiple=4)
    assert (len(plain), len(filled)) == (5, 8)
    assert list(filled) == [*plain, None, None, None]
    assert pairs(filled, epochs=4) == pairs(plain, epochs=4)
    assert len(PairSampler(8, 7, seed=2, multiple=4)) == 8


def test_without_retain_rows_there_is_no_partner():
    dataset = PairedDataset({"forget": [row(5, 6)]})
    assert list(PairSampler(1, None, seed=0)) == [(0, -1, -1)]
    assert dataset[0, -1, -1] == {"forget": {"input_ids": [5, 6], "labels": [-100, 6], "role": FORGET, "index": 0}}


def test_batch_has_forget_rows_first_then_filler_then_retain_rows():
    dataset = PairedDataset({"forget": [row(5, 6, 7), row(8, 9)], "retain": [row(3, 4, 5, 6, answer=2), row(4, 4)]})
    batch = UnlearnCollator(pad_token_id=0)([dataset[1, 0, -1], dataset[0, 1, -1], dataset[None]])
    assert batch["roles"].tolist() == [FORGET, FORGET, PADDING, RETAIN, RETAIN]
    assert batch["indices"].tolist() == [1, 0, -1, 0, 1]
    assert batch["input_ids"].tolist() == [[8, 9, 0, 0], [5, 6, 7, 0], [5, 0, 0, 0], [3, 4, 5, 6], [4, 4, 0, 0]]
    no = -100
    expected = [[no, 9, no, no], [no, no, 7, no], [no] * 4, [no, no, 5, 6], [no, 4, no, no]]
    assert batch["labels"].tolist() == expected


def test_general_rows_come_last_and_filler_has_no_partner():
    dataset = PairedDataset(
        {"forget": [row(5, 6, 7), row(8, 9)], "retain": [row(3, 4), row(4, 4)], "general": [row(1, 2, 3, answer=2)]}
    )
    batch = UnlearnCollator(pad_token_id=0)([dataset[1, 0, 0], dataset[None], dataset[0, 1, 0]])
    assert batch["roles"].tolist() == [FORGET, PADDING, FORGET, RETAIN, RETAIN, GENERAL, GENERAL]
    assert batch["indices"].tolist() == [1, -1, 0, 0, 1, 0, 0]
    assert batch["input_ids"].tolist() == [[8, 9, 0], [5, 0, 0], [5, 6, 7], [3, 4, 0], [4, 4, 0], [1, 2, 3], [1, 2, 3]]
    assert batch["labels"][5].tolist() == [-100, 2, 3]
    without_retain = PairedDataset({"forget": [row(5, 6)], "general": [row(1, 2)]})[0, -1, 0]
    assert {name: part["role"] for name, part in without_retain.items()} == {"forget": FORGET, "general": GENERAL}


def test_masks_come_from_lengths_where_the_pad_token_is_also_the_end_token():
    end = 2
    batch = pad_rows([row(5, end, 6, end, answer=2), row(7, end)], pad_token_id=end)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 6, end], [-100, end, -100, -100]]


def test_filler_has_no_answer_token_and_changes_nothing_for_other_rows():
    model = tiny_model()
    plain, filled = mixed_batch(), mixed_batch(filler=2)
    with torch.no_grad():
        answers, with_filler = forward_answers(model, plain), forward_answers(model, filled)
    torch.testing.assert_close(with_filler.logits, answers.logits)
    assert with_filler.lengths.tolist() == [3, 2, 4, 0, 0, 3, 2]
    assert len(with_filler.forget.roles) == 3 and len(with_filler.retain.roles) == 2


def test_alternates_stand_behind_the_forget_rows_in_their_order():
    forget, other = [row(5, 6, 7), row(8, 9)], [row(5, 6, 1), row(8, 2)]
    dataset = PairedDataset({"forget": forget, "alternate": other, "retain": [row(3, 4)]})
    batch = UnlearnCollator(pad_token_id=0)([dataset[1, 0, -1], dataset[None], dataset[0, 0, -1]])
    assert batch["roles"].tolist() == [FORGET, PADDING, FORGET, ALTERNATE, ALTERNATE, RETAIN, RETAIN]
    assert batch["indices"].tolist() == [1, -1, 0, 1, 0, 0, 0]
    assert batch["input_ids"][3:5].tolist() == [[8, 2, 0], [5, 6, 1]]
