"""Losses against numbers worked by hand."""

import math

import pytest
import torch

from llm_unlearn.data.collators import RETAIN
from llm_unlearn.models.answers import Answers, answer_token_logps
from llm_unlearn.training.losses import (
    adjusted_distillation_loss,
    cross_entropy_without_label,
    dpo_loss,
    global_mean,
    gradient_ascent_loss,
    kl_loss,
    logit_margin_loss,
    nll_loss,
    npo_loss,
    simnpo_loss,
    uniform_kl_loss,
    weighted_ascent_loss,
)

LOGPS = torch.tensor([-1.0, -2.0, -6.0])


def test_token_logps_are_those_of_the_labels_in_float32():
    logits = torch.tensor([[1.0, 2.0, 5.0], [1.0, 1.0, 2.0]]).log()  # probabilities 1/8, 2/8, 5/8 and 1/4, 1/4, 1/2
    logps = answer_token_logps(logits, torch.tensor([2, 0]))
    torch.testing.assert_close(logps, torch.tensor([math.log(5 / 8), math.log(1 / 4)]))
    assert answer_token_logps(logits.bfloat16(), torch.tensor([2, 0])).dtype == torch.float32


def test_nll_and_gradient_ascent_are_each_others_negative():
    assert nll_loss(LOGPS).item() == 3.0
    assert gradient_ascent_loss(LOGPS).item() == -3.0


def test_npo_at_the_reference_is_two_over_beta_times_ln_2():
    assert npo_loss(LOGPS, LOGPS, beta=0.1).item() == pytest.approx(13.862944, abs=1e-5)
    assert npo_loss(LOGPS, LOGPS, beta=0.5).item() == pytest.approx(2.7725887, abs=1e-6)


def test_npo_by_hand():
    # beta (nll - nll_reference) = 0.5 * (5 - 2) = 1.5; -(2/0.5) ln sigmoid(1.5) = 4 ln(1 + e^-1.5) = 0.8056531
    assert npo_loss(torch.tensor([-5.0]), torch.tensor([-2.0]), beta=0.5).item() == pytest.approx(0.8056531, abs=1e-6)
    # Not forgotten but learned better: 4 ln(1 + e^1.5) = 6.8056531
    assert npo_loss(torch.tensor([-2.0]), torch.tensor([-5.0]), beta=0.5).item() == pytest.approx(6.8056531, abs=1e-6)


@pytest.mark.parametrize(("beta", "expected"), [(1e-4, 1.0), (0.5, 2 / (1 + math.exp(1.5)))])
def test_npo_gradient_tends_to_gradient_ascents_for_small_beta(beta, expected):
    # d/d logp = 2 sigmoid(-beta (nll - nll_reference)) per row: 1 for beta -> 0, which is gradient ascent's.
    answer = torch.tensor([-5.0, -5.0], requires_grad=True)
    npo_loss(answer, torch.tensor([-2.0, -2.0]), beta=beta).backward()
    assert answer.grad.tolist() == pytest.approx([expected / 2] * 2, abs=1e-4)


def test_kl_of_equal_logits_is_zero_whatever_their_offset():
    logits = torch.tensor([[0.3, -2.0, 4.0], [1.0, 1.0, 1.0]])
    assert kl_loss(logits, logits + 7.0).item() == pytest.approx(0.0, abs=1e-6)


def test_dpo_by_hand():
    """beta (margin - reference margin) = 0.5 (1 - (-0.5)) = 0.75; 4 ln(1 + e^-0.75) = 1.547484."""
    values = dpo_loss(torch.tensor([1.0, -2.0]), torch.tensor([-0.5, -2.0]), beta=0.5, reduction="none")
    assert values.tolist() == pytest.approx([1.547484, 4 * math.log(2)], abs=1e-5)


def test_kl_is_that_of_the_model_from_the_reference():
    model, reference = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert kl_loss(model, reference).item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)
    assert kl_loss(reference, model).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-6)


def test_simnpo_by_hand():
    """0.5 (6 / 3 - 0.5) = 0.75, 4 ln(1 + e^-0.75) = 1.547484; a row at delta is at (2/beta) ln 2."""
    values = simnpo_loss(torch.tensor([-6.0, -1.0]), torch.tensor([3, 2]), beta=0.5, delta=0.5, reduction="none")
    assert values.tolist() == pytest.approx([1.547484, 4 * math.log(2)], abs=1e-5)


def test_weighted_ascent_by_hand():
    """p = 1/4: p^2 (1 - p) ln p = 3/64 ln(1/4); p = 1: a certain token is not pushed."""
    logps = torch.tensor([0.25, 1.0]).log().requires_grad_()
    values = weighted_ascent_loss(logps, saturation=2.0, importance=1.0, reduction="none")
    assert values.tolist() == pytest.approx([3 / 64 * math.log(1 / 4), 0.0])
    values.sum().backward()
    assert logps.grad.tolist() == pytest.approx([3 / 64, 0.0])  # the weight alone: it is held constant
    assert weighted_ascent_loss(LOGPS, 0.0, 0.0).item() == gradient_ascent_loss(LOGPS).item()


def test_adjusted_distillation_by_hand():
    """Reference odds 4 : 2 : 2, the first token's lowered by ln 4: target 1/5, 2/5, 2/5."""
    reference = torch.tensor([[4.0, 2.0, 2.0]]).log()
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log().requires_grad_()
    loss = adjusted_distillation_loss(logits, reference, torch.tensor([0]), beta=math.log(4))
    assert loss.item() == pytest.approx((math.log(2) + 4 * math.log(4)) / 5)
    loss.backward()
    assert logits.grad[0].tolist() == pytest.approx([0.5 - 0.2, 0.25 - 0.4, 0.25 - 0.4])
    assert reference.exp()[0].tolist() == pytest.approx([4.0, 2.0, 2.0])  # not changed in place


def test_cross_entropy_without_the_label_by_hand():
    """p = 1/2, 1/8, 3/8, the first true: target 0, 1/4, 3/4, and the gradient p - target."""
    logits = torch.tensor([[0.5, 0.125, 0.375]]).log().requires_grad_()
    loss = cross_entropy_without_label(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(-(math.log(1 / 8) + 3 * math.log(3 / 8)) / 4)
    loss.backward()
    assert logits.grad[0].tolist() == pytest.approx([1 / 2, -1 / 8, -3 / 8])


def test_uniform_kl_by_hand():
    """ln 4 less the entropy; nothing at a blind guess; bounded by ln 4."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125], [1.0, 1.0, 1.0, 1.0]]).log()
    values = uniform_kl_loss(torch.cat([logits, torch.tensor([[99.0, 0.0, 0.0, 0.0]])]), reduction="none")
    assert values.tolist() == pytest.approx([math.log(4) - 1.75 * math.log(2), 0.0, math.log(4)], abs=1e-6)


def test_logit_margin_by_hand():
    """Logits 5, 1, 0: mean 2, margin 3. A constant on top changes nothing."""
    logits = torch.tensor([[5.0, 1.0, 0.0], [15.0, 11.0, 10.0], [2.0, 2.0, 2.0]])
    assert logit_margin_loss(logits, reduction="none").tolist() == pytest.approx([9.0, 9.0, 0.0])


@pytest.mark.parametrize(
    "loss",
    [
        lambda reduction: nll_loss(LOGPS, reduction),
        lambda reduction: gradient_ascent_loss(LOGPS, reduction),
        lambda reduction: npo_loss(LOGPS, LOGPS - 1, 0.3, reduction),
        lambda reduction: kl_loss(torch.eye(3), torch.ones(3, 3), reduction),
        lambda reduction: simnpo_loss(LOGPS, torch.tensor([1, 2, 3]), 0.3, 0.1, reduction),
        lambda reduction: weighted_ascent_loss(LOGPS, 0.3, 0.1, reduction),
        lambda reduction: adjusted_distillation_loss(torch.eye(3), torch.ones(3, 3), torch.arange(3), 1.0, reduction),
        lambda reduction: cross_entropy_without_label(torch.eye(3), torch.arange(3), reduction),
        lambda reduction: uniform_kl_loss(torch.eye(3), reduction),
        lambda reduction: logit_margin_loss(torch.eye(3), reduction),
    ],
)
def test_reduction(loss):
    single = loss("none")
    assert single.shape == (3,)
    assert loss("mean").item() == pytest.approx(single.mean().item())
    with pytest.raises(ValueError, match="reduction='sum' is unknown; use 'mean' or 'none'"):
        loss("sum")


@pytest.mark.parametrize(("per_token", "share"), [(False, 3 / 16), (True, 3 / 320)])
def test_one_answer_of_one_token_is_a_row_or_a_token_as_the_loss_says(per_token, share):
    part = Answers(None, labels=torch.tensor([4]), token_rows=torch.tensor([0]), roles=torch.tensor([RETAIN]))
    counts = torch.tensor([16.0, 320.0])
    assert global_mean(torch.tensor([3.0]), part, counts, per_token).item() == pytest.approx(share)


def test_values_count_as_what_they_are_as_many_as():
    roles = torch.tensor([RETAIN, RETAIN])
    part = Answers(None, labels=torch.tensor([4, 5, 6]), token_rows=torch.tensor([0, 0, 1]), roles=roles)
    counts = torch.tensor([4.0, 8.0])
    assert global_mean(torch.tensor([1.0, 3.0]), part, counts, True).item() == pytest.approx(1.0)
    assert global_mean(torch.tensor([1.0, 3.0, 4.0]), part, counts, True).item() == pytest.approx(1.0)
