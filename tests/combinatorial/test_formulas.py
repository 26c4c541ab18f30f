"""What is drawn is what the mixture says, and a seed's rows do not depend on its neighbors."""

import pytest
import torch

from llm_unlearn.combinatorial.formulas import Mixture, Task, batches, draw_rows, generators, random_task, truth_of
from llm_unlearn.errors import InputError


def test_truth_by_hand():
    clauses = torch.tensor([[[0, 2], [1, 3]]])
    rows = torch.tensor([[[1.0, 0, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]])
    assert truth_of(clauses, rows).tolist() == [[[True, False], [True, True], [False, True], [False, False]]]


def test_clauses_are_disjoint_and_a_seed_gives_the_same_whoever_stands_beside_it():
    task = random_task([3, 4])
    assert all(sorted(one.flatten().tolist()) == list(range(32)) for one in task.clauses)
    assert torch.equal(random_task([4]).clauses[0], task.clauses[1])
    assert not torch.equal(task.clauses[0], task.clauses[1])
    both = draw_rows(task, task.all, 50, generators([3, 4], "rows"))
    alone = draw_rows(random_task([4]), random_task([4]).all, 50, generators([4], "rows"))
    assert torch.equal(both.inputs[1], alone.inputs[0]) and torch.equal(both.labels[1], alone.labels[0])
    with pytest.raises(
        InputError, match="inputs=31 are too few for 8 disjoint clauses of 4 literals; give at least 32"
    ):
        random_task([0], inputs=31)


@pytest.mark.parametrize("inputs", [32, 40])
def test_rows_of_every_mixture(inputs):
    task = random_task([0, 1], inputs=inputs)
    rows = draw_rows(task, task.all, 4000, generators([0, 1], "all"))
    holds = truth_of(task.clauses, rows.inputs)
    literals = rows.inputs.gather(2, task.clauses.flatten(1)[:, None].expand(-1, 4000, -1)).view(2, 4000, 8, 4).sum(-1)
    assert torch.equal(rows.labels, holds.any(-1).float()) and holds.sum(-1).max() == 1
    assert rows.labels.mean() == pytest.approx(0.5, abs=0.03)
    negative = rows.labels == 0
    # half of them on purpose; a tenth of ones makes few others
    assert (literals == 3).any(-1)[negative].float().mean() == pytest.approx(0.5, abs=0.06)
    assert holds.float().mean((0, 1)).tolist() == pytest.approx([0.0625] * 8, abs=0.02)
    if inputs > 32:
        others = torch.ones(2, inputs).scatter(1, task.clauses.flatten(1), 0.0).bool()
        assert rows.inputs.mean(1)[others].mean() == pytest.approx(0.1, abs=0.02)

    forget = draw_rows(task, task.forget, 500, generators([0, 1], "forget"))
    assert forget.labels.all() and truth_of(task.clauses, forget.inputs)[..., 0].all()
    retain = draw_rows(task, task.retain, 2000, generators([0, 1], "retain"))
    holds = truth_of(task.clauses, retain.inputs)
    assert not holds[..., 0].any() and torch.equal(retain.labels, holds.any(-1).float())
    only = draw_rows(task, task.only(5), 300, generators([0, 1], "only"))
    assert truth_of(task.clauses, only.inputs).sum((0, 1)).tolist() == [0, 0, 0, 0, 0, 600, 0, 0]


def test_without_the_target_its_inputs_are_noise():
    task = Task(torch.arange(8).view(1, 4, 2), 8)  # two literals each, so that chance fulfills the target now and then
    rows = draw_rows(task, task.without_target, 4000, generators([0], "oracle"))
    holds = truth_of(task.clauses, rows.inputs)
    assert torch.equal(rows.labels, holds[..., 1:].any(-1).float())
    assert holds[..., 0][rows.labels == 0].any()  # called negative, as the formula without it says


def test_batches_are_the_rows_of_one_draw_after_the_other():
    task = random_task([0])
    drawn = list(batches(task, task.all, 7, 5, generators([0], "b")))
    whole = draw_rows(task, task.all, 35, generators([0], "b"))
    assert len(drawn) == 5 and torch.equal(torch.cat([one.inputs for one in drawn], dim=1), whole.inputs)
    assert torch.equal(torch.cat([one.labels for one in drawn], dim=1), whole.labels)


def test_shares_of_positive_and_hard_rows():
    task = random_task([0])
    always = draw_rows(task, task.all._replace(positives=0.0, hard_negatives=1.0), 200, generators([0], "h"))
    literals = always.inputs.gather(2, task.clauses.flatten(1)[:, None].expand(-1, 200, -1)).view(200, 8, 4).sum(-1)
    assert not always.labels.any() and (literals == 3).any(-1).all()
    assert isinstance(task.all, Mixture)
