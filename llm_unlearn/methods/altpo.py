"""AltPO: DPO's loss, and the answers that are preferred are the model's own inventions.

loss = mean over rows of -(2/beta) log sigmoid(beta ((lp_a - lp_a_reference) - (lp_f - lp_f_reference))) / T; a is an
answer that the model before unlearning gave when it was asked to make one up (`methods/sampled_answers.py`). They are
as fluent as all that it says, which refusals would not be.

Source: Mekala et al. 2024, "Alternate Preference Optimization", arXiv 2409.13474, eq. 2 (beta 0.1).
"""

from dataclasses import dataclass

from llm_unlearn.methods.dpo import DPOConfig, DPOTrainer
from llm_unlearn.methods.method import Method
from llm_unlearn.training.paper import Paper


@dataclass
class AltPOConfig(DPOConfig):
    """Arguments of `AltPOTrainer`."""

    replace_with: str = "sampled"


class AltPOTrainer(DPOTrainer):
    """DPO towards answers that the model itself makes up; `args` is an `AltPOConfig`."""

    config_class = AltPOConfig
    method_name, method_title = "altpo", "AltPO"
    paper = Paper(
        "2409.13474",
        "Mekala and others",
        2024,
        "Alternate Preference Optimization for Unlearning Factual Knowledge in Large Language Models",
    )


METHOD = Method(
    AltPOTrainer,
    summary="Unlearn with AltPO (alternate preference optimization): answers that the model itself makes up are "
    "preferred to the forgotten ones",
    # The one-word worlds' models follow no instruction: a guess of the same kind is in the place of what they make up.
    embedded_defaults={"forget_loss_unit": "answer", "replace_with": "guess"},
    search_space={"beta": (0.05, 0.1, 0.5)},
    extra_rounds=1,  # of the other answers
)
