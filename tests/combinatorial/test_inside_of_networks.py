"""The audits of hidden layers where it is known what they should say."""

import numpy as np
import pytest
import torch

from llm_unlearn.combinatorial.formulas import random_task
from llm_unlearn.combinatorial.inside import Inside, agreement
from llm_unlearn.combinatorial.network import Network
from llm_unlearn.combinatorial.subject import Subject

SEEDS = [3, 4]
TASK = random_task(SEEDS, inputs=14, clauses=3, literals=4)


def planted(clauses, scale=1.0):
    """A neuron for each of these clauses, which is 1 where it holds and 0 elsewhere, and one that always is 0."""
    w1 = torch.zeros(len(SEEDS), 4, TASK.inputs)
    w2 = torch.zeros(len(SEEDS), 4)
    for number in clauses:
        w1[:, number].scatter_(1, TASK.clauses[:, number], scale)
        w2[:, number] = 8.0 / scale
    return Network(w1, torch.full((len(SEEDS), 4), -3.0 * scale), w2, torch.full((len(SEEDS),), -4.0))


ORIGINAL, ORACLE = planted([0, 1, 2]), planted([1, 2])


@pytest.fixture(scope="module")
def inside():
    return Inside(Subject(TASK, ORIGINAL, SEEDS, torch.zeros(len(SEEDS), 1, TASK.inputs)), ORACLE)


def test_the_original_and_the_oracle_are_the_ends(inside):
    original, oracle = inside.measure(ORIGINAL), inside.measure(ORACLE)
    assert original["consistency"] == original["depth"] == [0, 0] and original["probe"] == [1, 1]
    assert oracle["consistency"] == oracle["depth"] == [1, 1]
    assert oracle["direction"] == pytest.approx([1, 1])
    # Its layer is 0 on all these rows: nothing to tell them apart by, and half of them are called negative.
    assert oracle["probe"] == [0.5, 0.5]


def test_a_clause_that_is_only_not_listened_to_is_still_there(inside):
    """The hidden layer is the original's: only the readout changed."""
    w2 = ORIGINAL.w2.clone()
    w2[:, 0] = -8
    found = inside.measure(ORIGINAL._replace(w2=w2))
    assert found["probe"] == [1, 1] and found["consistency"] == found["depth"] == [0, 0]


def test_half_of_the_way(inside):
    """Half of the neuron's output: e = d_r / 2, so 1 - 1/4; the original's readout says 8/2 - 4 = 0 in place of 4."""
    w1, b1 = ORIGINAL.w1.clone(), ORIGINAL.b1.clone()
    w1[:, 0] /= 2
    b1[:, 0] /= 2
    found = inside.measure(ORIGINAL._replace(w1=w1, b1=b1))
    assert found["consistency"] == pytest.approx([0.75, 0.75]) and found["direction"] == pytest.approx([1, 1])
    drops = [np.log(1 / (1 + np.exp(-logit))) for logit in (4.0, 0.0, -4.0)]
    expected = (drops[0] - drops[1]) / (drops[0] - drops[2])
    assert found["depth"] == pytest.approx([expected, expected], rel=1e-5)
    assert found["probe"] == [1, 1]


def test_depth_takes_the_original_with_its_neurons_in_another_order_for_unlearned(inside):
    """It computes the same and knows the clause, as its probe says; to the original its states are foreign."""
    order = [3, 2, 1, 0]
    found = inside.measure(Network(ORIGINAL.w1[:, order], ORIGINAL.b1[:, order], ORIGINAL.w2[:, order], ORIGINAL.b2))
    assert found["probe"] == [1, 1] and found["depth"] == [1, 1]
    assert found["consistency"] == [0, 0]  # as far from the oracle as the original is
    assert all(np.isnan(found["kept_consistency"]))  # retraining moved nothing there


def test_agreement_is_a_rank_correlation_by_seed():
    networks = {
        "one": {"probe": [0.5, 0.9], "keep": [0.0, 1.0], "recovery_target": [100.0, 3.0]},
        "two": {"probe": [0.7, 0.8], "keep": [0.4, 1.0], "recovery_target": [50.0, 2.0]},
        "three": {"probe": [0.9, 0.7], "keep": [1.0, 1.0], "recovery_target": [float("inf"), 1.0]},
    }
    others = {"pattern", "consistency", "aligned_consistency", "direction", "depth"}
    found = agreement({name: one | {key: [0.0, 1.0] for key in others} for name, one in networks.items()})
    assert found["probe"]["keep"][0] == pytest.approx(1) and np.isnan(found["probe"]["keep"][1])
    # Ranks 1 2 3 beside 2 1 3 (never back is last), and 3 2 1 beside 3 2 1.
    assert found["probe"]["recovery_target"] == pytest.approx([0.5, 1])
    assert np.isnan(found["depth"]["pattern"]).all()
