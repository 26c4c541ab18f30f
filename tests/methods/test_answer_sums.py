"""One unit for losses that sum over an answer: what `retain_weight` weighs does not depend on how long answers are."""

import pytest
import torch

from llm_unlearn.methods.dpo import DPOConfig
from llm_unlearn.methods.npo import NPOConfig
from llm_unlearn.training.losses import npo_loss


@pytest.mark.parametrize("config", [NPOConfig, DPOConfig])
def test_a_loss_per_token_is_that_of_the_answer_divided_by_its_tokens(config, tmp_path):
    losses, lengths = torch.tensor([6.0, 8.0]), torch.tensor([3, 4])
    assert config(output_dir=str(tmp_path)).in_unit(losses, lengths).tolist() == [2.0, 2.0]
    published = config(output_dir=str(tmp_path), forget_loss_unit="answer")
    assert published.in_unit(losses, lengths).tolist() == [6.0, 8.0]


@pytest.mark.parametrize(("unit", "expected"), [("token", [1 / 3, 1 / 12]), ("answer", [1.0, 1.0])])
def test_at_the_start_each_token_weighs_as_in_a_token_mean(unit, expected, tmp_path):
    """NPO's gradient there is gradient ascent's: per token 1 / tokens of its row, whatever the row's length."""
    lengths = torch.tensor([3, 12])
    reference = -lengths.float()
    logps = reference.clone().requires_grad_()
    NPOConfig(output_dir=str(tmp_path), forget_loss_unit=unit).in_unit(
        npo_loss(logps, reference, beta=0.1, reduction="none"), lengths
    ).sum().backward()
    assert logps.grad.tolist() == pytest.approx(expected)


def test_another_unit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="forget_loss_unit='row' is unknown; choose one of token, answer"):
        NPOConfig(output_dir=str(tmp_path), forget_loss_unit="row")
