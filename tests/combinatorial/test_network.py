"""Networks in one batch are trained as if each were alone, and stop when they are told to."""

import torch
import torch.nn.functional as F

from llm_unlearn.combinatorial.formulas import Rows, batches, generators, random_task
from llm_unlearn.combinatorial.network import Network, adam, copy_where, cross_entropy, descend, random_networks, sgd


def test_a_step_by_hand():
    # logit = 0.5 relu(2 x + 0) + 0 = 1 at x = 1; d loss / d logit = sigmoid(1) - 1
    network = Network(torch.tensor([[[2.0]]]), torch.zeros(1, 1), torch.tensor([[0.5]]), torch.zeros(1))
    rows = Rows(torch.ones(1, 1, 1), torch.ones(1, 1))
    after, steps = descend(network, [rows], cross_entropy, sgd(1.0))
    slope = 1 - torch.sigmoid(torch.tensor(1.0))
    assert steps.tolist() == [1]
    torch.testing.assert_close(after.w2, 0.5 + 2 * slope.view(1, 1))
    torch.testing.assert_close(after.w1, 2 + 0.5 * slope.view(1, 1, 1))
    torch.testing.assert_close(after.b1, 0.5 * slope.view(1, 1))
    torch.testing.assert_close(after.b2, slope.view(1))
    assert network.w2.item() == 0.5  # what was given stays


def test_a_batch_of_networks_is_each_network_alone():
    seeds = [0, 1, 2]
    both = train(seeds)
    for number, seed in enumerate(seeds):
        for together, alone in zip(both, train([seed]), strict=True):
            torch.testing.assert_close(together[number], alone[0], rtol=1e-4, atol=1e-5)
    # and as torch.nn has it
    task = random_task([1])
    first = torch.nn.Linear(32, 8)
    last = torch.nn.Linear(8, 1)
    start = random_networks(generators([1], "start"), 8, 32)
    with torch.no_grad():
        for parameter, value in zip((*first.parameters(), *last.parameters()), start, strict=True):
            parameter.copy_(value[0].view_as(parameter))
    optimizer = torch.optim.Adam([*first.parameters(), *last.parameters()], lr=0.01)
    for rows in batches(task, task.all, 16, 20, generators([1], "rows")):
        optimizer.zero_grad()
        logits = last(first(rows.inputs[0]).relu()).squeeze(1)
        F.binary_cross_entropy_with_logits(logits, rows.labels[0]).backward()
        optimizer.step()
    torch.testing.assert_close(both.w1[1], first.weight.detach(), rtol=1e-4, atol=1e-5)


def train(seeds: list[int]) -> Network:
    task = random_task(seeds)
    start = random_networks(generators(seeds, "start"), 8, 32)
    rows = batches(task, task.all, 16, 20, generators(seeds, "rows"))
    return descend(start, rows, cross_entropy, adam(0.01))[0]


def test_a_network_stays_what_it_was_when_it_stopped():
    start = random_networks(generators([0, 1], "start"), 4, 3)
    rows = [Rows(torch.ones(2, 1, 3), torch.ones(2, 1))] * 9
    limits = torch.tensor([0.1, 0.3])
    seen = []

    def stop(network: Network) -> torch.Tensor:
        seen.append(network.b2.detach().clone())
        return network.b2 - start.b2 > limits

    found, steps = descend(start, rows, lambda network, _: -network.b2, sgd(0.06), stop)
    assert steps.tolist() == [2, 6] and len(seen) == 6
    torch.testing.assert_close(found.b2, start.b2 + torch.tensor([0.12, 0.36]))
    never, steps = descend(start, rows, lambda network, _: -network.b2, sgd(0.01), stop)
    assert steps.tolist() == [9, 9]
    torch.testing.assert_close(never.b2, start.b2 + 0.09)


def test_copy_where_takes_whole_networks():
    one, two = random_networks(generators([0, 1], "a"), 4, 3), random_networks(generators([0, 1], "b"), 4, 3)
    mixed = copy_where(torch.tensor([True, False]), one, two)
    for part, first, second in zip(mixed, one, two, strict=True):
        assert torch.equal(part[0], first[0]) and torch.equal(part[1], second[1])
    assert one.flat().shape == (2, 4 * 3 + 4 + 4 + 1)
