"""Attacks that try to bring back what was unlearned."""

from llm_unlearn.attacks.relearning import AttackBudget, adversarial_reinjection, benign_relearning, split_facts
from llm_unlearn.attacks.run import run_attack

ATTACKS = ("adversarial_reinjection", "benign_relearning")

__all__ = ["ATTACKS", "AttackBudget", "adversarial_reinjection", "benign_relearning", "run_attack", "split_facts"]
