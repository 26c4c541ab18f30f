"""Losses by hand, methods that stop where they say, recovery and reversal."""

import math

import pytest
import torch

from llm_unlearn.combinatorial.attribution import attribution_regularized, negative_influence
from llm_unlearn.combinatorial.formulas import Rows, batches, draw_rows, generators, random_task, truth_of
from llm_unlearn.combinatorial.judge import Judge, summary
from llm_unlearn.combinatorial.label_methods import fit_labels
from llm_unlearn.combinatorial.network import (
    Network,
    adam,
    cross_entropy,
    descend,
    random_networks,
    true_positive_rate,
)
from llm_unlearn.combinatorial.output_methods import gradient_ascent, npo, npo_and_retain, task_vector
from llm_unlearn.combinatorial.recovery import recover, reversal
from llm_unlearn.combinatorial.subject import Step, Subject

SEEDS = [0, 1]


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Two networks of 16 neurons that know a formula of two clauses of three literals each, after 400 steps."""
    task = random_task(SEEDS, inputs=8, clauses=2, literals=3)
    start = random_networks(generators(SEEDS, "start"), 16, 8)
    original, _ = descend(start, batches(task, task.all, 64, 400, generators(SEEDS, "rows")), cross_entropy, adam(0.01))
    forget = draw_rows(task, task.forget, 100, generators(SEEDS, "judged")).inputs
    assert (true_positive_rate(original, forget) > 0.9).all()
    return Subject(task, original, SEEDS, forget, batch_size=64)


def test_negative_influence_by_hand():
    # Outputs 2 and 3, w2 = 1 and -0.5: logit 0.5, so g = (1 - p) w2 with 1 - p = sigmoid(-0.5).
    network = Network(torch.tensor([[[2.0], [3.0]]]), torch.zeros(1, 2), torch.tensor([[1.0, -0.5]]), torch.zeros(1))
    rows, own, swapped = torch.ones(1, 1, 1), torch.tensor([[0, 1]]), torch.tensor([[1, 0]])
    rest = 1 / (1 + math.exp(0.5))
    assert negative_influence(network, rows, own).item() == pytest.approx((3 * 0.5 * rest) ** 2)
    assert negative_influence(network, rows, swapped).item() == pytest.approx((2 * 0.5 * rest) ** 2)


def test_negative_influence_is_held_constant_as_on_language_models():
    network = Network(*(part.requires_grad_() for part in random_networks(generators([3], "n"), 5, 4)))
    rows = torch.ones(1, 3, 4) * torch.tensor([1.0, 0.5, 2.0])[:, None]
    hidden = network.hidden(rows)
    (slope,) = torch.autograd.grad(torch.nn.functional.logsigmoid(network.read_out(hidden)).sum(), hidden)
    expected = (network.hidden(rows) * slope).clamp(max=0).square().sum(-1).mean()
    found = negative_influence(network, rows, torch.arange(5)[None]).sum()
    torch.testing.assert_close(found, expected)
    assert found > 0
    found.backward()
    assert network.w2.grad is None and network.w1.grad.abs().sum() > 0


def test_npo_at_the_reference_and_its_gradient():
    network = random_networks(generators([3], "n"), 5, 4)
    rows = Rows((torch.rand(1, 6, 4) < 0.5).float(), torch.ones(1, 6))
    found = npo_and_retain(network)(network, Step(rows, rows)).item()
    assert found == pytest.approx(20 * math.log(2) + cross_entropy(network, rows).item(), rel=1e-5)


def test_output_methods_stop_as_soon_as_the_target_is_forgotten(subject):
    for method in (gradient_ascent, npo, task_vector):
        found, steps = method(subject)
        assert (true_positive_rate(found, subject.forget_rows) <= 0.05).all(), method.__name__
        assert (steps > 0).all() and (true_positive_rate(subject.original, subject.forget_rows) > 0.9).all()
    _, scales = task_vector(subject)
    assert (scales * 10).round().tolist() == pytest.approx((scales * 10).tolist(), abs=1e-4)


def test_regularized_networks_of_all_weights_are_trained_at_once(subject):
    plain, steps = npo(subject)
    (none, none_steps), (some, _) = attribution_regularized(subject, [0.0, 1.0], shuffled=False)
    assert none_steps.tolist() == steps.tolist()
    torch.testing.assert_close(none.flat(), plain.flat(), rtol=1e-4, atol=1e-5)
    ((alone, _),) = attribution_regularized(subject, [1.0], shuffled=False)
    torch.testing.assert_close(alone.flat(), some.flat(), rtol=1e-3, atol=1e-4)
    ((control, _),) = attribution_regularized(subject, [1.0], shuffled=True)
    assert (control.flat() - some.flat()).abs().amax() > 1e-3


def test_labels_without_the_target_are_learned_from_both_starts(subject):
    seen = []
    found = fit_labels(subject, 0.01, 300, seen.append)
    assert list(found) == ["relabel", "distill_warm", "distill_fresh"] and sum(seen) == 300
    other = draw_rows(subject.task, subject.task.only(1), 100, generators(SEEDS, "judged")).inputs
    for name, (network, steps) in found.items():
        assert steps.tolist() == [300, 300]
        assert (true_positive_rate(network, subject.forget_rows) < 0.2).all(), name
        assert (true_positive_rate(network, other) > 0.9).all(), name
    assert reversal(subject.original, subject.original, found["distill_fresh"][0]).isnan().all()


def test_models_of_a_seed_recover_on_the_same_rows(subject):
    unlearned, _ = gradient_ascent(subject)
    twice = Network(*(torch.cat([part, part]) for part in unlearned))
    seen = []
    outcome = recover(subject.task, subject.task.target, twice, subject.forget_rows, SEEDS, 300, seen.append)
    assert outcome.recovered.all() and outcome.steps[:2].tolist() == outcome.steps[2:].tolist()
    assert len(seen) == outcome.steps.max() == len(outcome.curve) - 1
    for network, steps in enumerate(outcome.steps.tolist()):
        rates = outcome.curve[:, network]
        assert rates[steps] >= 0.8 and (rates[:steps] < 0.8).all()
    stuck = recover(subject.task, subject.task.target, unlearned, subject.forget_rows, SEEDS, 1, seen.append)
    assert stuck.recovered.tolist() == [False, False] and stuck.steps.tolist() == [1, 1]


def test_reversal_by_hand(subject):
    start = subject.original
    home = start._replace(b2=start.b2 + 1)
    aside = start._replace(b2=start.b2 + 1, b1=start.b1 + torch.tensor([1.0] + [0.0] * 15))
    assert reversal(home, start, start._replace(b2=start.b2 + 3)).tolist() == pytest.approx([1, 1])
    assert reversal(home, start, start._replace(b2=start.b2 - 3)).tolist() == pytest.approx([-1, -1])
    assert reversal(home, start, aside).tolist() == pytest.approx([2**-0.5] * 2, rel=1e-4)
    assert reversal(home, start, start).isnan().all()


def test_retain_rows_never_hold_the_target(subject):
    rows = draw_rows(subject.task, subject.task.retain, 500, generators(SEEDS, "any"))
    assert not truth_of(subject.task.clauses, rows.inputs)[..., 0].any()


def test_the_original_keeps_its_own_codes(subject):
    measured = Judge(subject).measure(subject.original)
    assert measured["keep"] == measured["published_keep"] == measured["other_keep"] == [1.0, 1.0]
    assert min(measured["strength_over_null"]) > 1 and min(measured["target_true_positive_rate"]) > 0.9
    assert measured["true_negative_rate"][0] > 0.8


def test_medians_and_their_intervals():
    # Of nine values, the second and the second last cover the median with 96 %; of eight, only the range does (99 %).
    found = summary([9, 1, 2, 3, 4, 5, 6, 7, 8], range(9))
    assert (found["agg_value"], found["interval"]) == (5, [2, 8])
    assert summary([1, 2, 3, 4, 5, 6, 7, 8], range(8))["interval"] == [1, 8]
    late = summary([math.inf, 4, 7], [5, 6, 7])
    assert late == {"agg_value": 7, "interval": [4, None], "value_by_index": {"5": None, "6": 4, "7": 7}}
    assert summary([math.nan, 1.0, 3.0], [0, 1, 2])["agg_value"] == 2.0  # not measurable: left out
    assert summary([math.nan], [0]) == {"agg_value": None, "interval": [None, None], "value_by_index": {"0": None}}
