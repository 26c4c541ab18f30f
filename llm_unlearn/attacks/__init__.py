"""Attacks that try to bring back what was unlearned."""

from llm_unlearn.attacks.counterfactual import counterfactual_rows, knowledge_excess, true_rows
from llm_unlearn.attacks.curves import steps_to_half
from llm_unlearn.attacks.relearning import (
    AttackBudget,
    adversarial_reinjection,
    benign_relearning,
    leave_one_group_out,
    retain_relearning,
    split_facts,
)
from llm_unlearn.attacks.run import ATTACKS, DIRECT_ATTACKS, RELEARNING_ATTACKS, run_attack

__all__ = [
    "ATTACKS",
    "DIRECT_ATTACKS",
    "RELEARNING_ATTACKS",
    "AttackBudget",
    "adversarial_reinjection",
    "benign_relearning",
    "counterfactual_rows",
    "knowledge_excess",
    "leave_one_group_out",
    "retain_relearning",
    "run_attack",
    "split_facts",
    "steps_to_half",
    "true_rows",
]
