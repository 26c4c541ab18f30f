"""The read-off on networks planted by hand, and what must not change it."""

import pytest
import torch

from llm_unlearn.combinatorial.formulas import generators, random_orders
from llm_unlearn.combinatorial.network import Network, random_networks, true_positive_rate
from llm_unlearn.combinatorial.read_off import (
    codes,
    keep,
    mean_weights,
    normalized,
    null_strengths,
    pattern_correlation,
    published_codes,
    strengths,
)
from llm_unlearn.errors import InputError

CLAUSES = torch.tensor([[[0, 1], [2, 3], [4, 5]]])
# Neurons 0 and 1 carry the first clause, 1 and 2 the second, so that neuron 1 is shared; 3 knows the third clause but
# speaks against a positive answer; 4 lacks a literal of the first. Mean |W1| is 0.6.
PLANTED = Network(
    w1=torch.tensor(
        [
            [
                [2.0, 2.0, 0.0, 0.0, 0.0, 0.0],
                [1.0, 2.0, 1.0, 1.0, 0.0, 0.0],
                [0.0, 0.0, 2.0, 1.0, 0.0, 0.0],
                [0.0, 0.0, 0.0, 0.0, 2.0, 2.0],
                [1.0, 0.5, 0.0, 0.0, 0.25, 0.25],
            ]
        ]
    ),
    b1=torch.tensor([[-3.0, -1.0, -2.0, -3.0, 0.0]]),
    w2=torch.tensor([[1.0, 1.0, 1.0, -1.0, 1.0]]),
    b2=torch.tensor([-0.5]),
)


def test_planted_codes_are_read_exactly():
    expected = [[True, False, False], [True, True, False], [False, True, False], [False] * 3, [False] * 3]
    assert codes(PLANTED, CLAUSES)[0].tolist() == expected
    assert published_codes(PLANTED, CLAUSES)[0].tolist() == expected
    # first clause: 2 + 1 + 0 + 0 + 0.5; second: 0 + 1 + 1; third: 0.25 of the last neuron
    assert strengths(PLANTED, CLAUSES)[0].tolist() == [3.5, 2.0, 0.25]


def test_mean_weights_by_hand():
    supporting, opposing = mean_weights(PLANTED._replace(w2=PLANTED.w2 * 2), CLAUSES)
    # doubled by the normalization: inputs of the first clause on neurons 0, 1, 2 and 4: (4 + 3 + 0 + 1.5) / 4 = 2.125
    assert supporting[0].tolist() == [2.125, 1.25, 0.125]
    assert opposing[0].tolist() == [0.0, 0.0, 4.0]


def test_pattern_sees_weakened_codes_and_not_their_scale():
    weakened = PLANTED._replace(w1=PLANTED.w1 * 0.1 - 5)  # no code is left, all is shifted
    assert not codes(weakened, CLAUSES).any()
    assert pattern_correlation(PLANTED, weakened, CLAUSES)[0].tolist() == pytest.approx([1, 1, 1], abs=1e-4)
    inverted = PLANTED._replace(w1=-PLANTED.w1)
    assert pattern_correlation(PLANTED, inverted, CLAUSES)[0].tolist() == pytest.approx([-1, -1, -1], abs=1e-4)
    # Neurons for a positive answer: 0, 1, 2 and 4, with weights 2, 1.5, 0 and 0.75 of the first clause. After, only the
    # last is left, so the correlation of (2, 1.5, 0, 0.75) with (0, 0, 0, 0.75): -5/21.
    mask = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])[:, None]
    found = pattern_correlation(PLANTED, PLANTED._replace(w1=PLANTED.w1 * mask), CLAUSES)[0, 0]
    assert found.item() == pytest.approx(-5 / 21, abs=1e-4)


def rescaled(network: Network, scale: torch.Tensor) -> Network:
    return network._replace(w1=network.w1 * scale[..., None], b1=network.b1 * scale, w2=network.w2 / scale)


def random_case() -> tuple[Network, torch.Tensor]:
    """Networks whose clauses have codes: all weights random, those of the first clause raised in some neurons."""
    network = random_networks(generators([0, 1, 2], "networks"), 20, 12)
    network.w1[:, :6, :3] += 0.6
    return network, torch.arange(12).view(1, 4, 3).expand(3, -1, -1)


def test_codes_and_strengths_do_not_see_the_scale_or_the_order_of_neurons():
    network, clauses = random_case()
    found, strength = codes(network, clauses), strengths(network, clauses)
    assert found.any() and not found.all()

    scale = torch.logspace(-2, 2, 20).expand(3, -1)
    other = rescaled(network, scale)
    rows = (torch.rand(3, 40, 12, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    torch.testing.assert_close(other.logits(rows), network.logits(rows), rtol=1e-4, atol=1e-5)
    assert torch.equal(codes(other, clauses), found)
    torch.testing.assert_close(strengths(other, clauses), strength)
    assert not torch.equal(published_codes(other, clauses), published_codes(network, clauses))  # why we normalize

    order = random_orders(generators([7], "order"), 20)[0]
    permuted = Network(network.w1[:, order], network.b1[:, order], network.w2[:, order], network.b2)
    assert torch.equal(codes(permuted, clauses), found[:, order])
    torch.testing.assert_close(strengths(permuted, clauses), strength)


def test_normalized_networks_compute_the_same_and_silent_neurons_have_no_code():
    network, clauses = random_case()
    network = network._replace(w2=network.w2.clone())
    network.w2[:, 0] = 0.0
    rows = torch.eye(12).expand(3, -1, -1)
    one = normalized(network)
    torch.testing.assert_close(one.logits(rows), network.logits(rows))
    assert set(one.w2.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert not codes(network, clauses)[:, 0].any()


def test_null_is_the_mean_over_random_inputs():
    network = Network(torch.ones(2, 3, 6), torch.zeros(2, 3), torch.tensor([[1.0, 2.0, -4.0]] * 2), torch.zeros(2))
    assert null_strengths(network, 4, [0, 1]).tolist() == [3.0, 3.0]
    only = network._replace(w1=torch.zeros(2, 3, 6))
    only.w1[:, 0, :3] = 1.0  # a pair of inputs lies among the first three in 3 of 15 cases
    assert null_strengths(only, 2, [0, 1], subsets=2000).tolist() == pytest.approx([0.2, 0.2], abs=0.03)


def test_keep_by_hand():
    before = torch.tensor([[True, True, True, True, False], [True, False, False, False, False], [False] * 5])
    after = torch.tensor([[True, True, True, False, True], [False, True, True, True, True], [True] * 5])
    found = keep(after, before)
    assert found[:2].tolist() == [0.75, 0.0] and found[2].isnan()


def test_rates_and_what_cannot_be_read():
    # of the first clause alone: relu(4 - 3) + relu(3 - 1) + 1.5 - 0.5 > 0; no input: -0.5
    rows = torch.tensor([[[1.0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]])
    assert PLANTED.logits(rows)[0].tolist() == [4.0, -0.5]
    assert true_positive_rate(PLANTED, rows).tolist() == [0.5]
    with pytest.raises(InputError, match="clauses: name input 9, of 6 inputs"):
        codes(PLANTED, torch.tensor([[[0, 9]]]))
    with pytest.raises(InputError, match="clauses: 2 formulas for 1 networks"):
        codes(PLANTED, CLAUSES.expand(2, -1, -1))
