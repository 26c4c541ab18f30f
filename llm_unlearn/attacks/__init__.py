"""Attacks that try to bring back what was unlearned."""

from llm_unlearn.attacks.relearning import AttackBudget, adversarial_reinjection, benign_relearning, split_facts

__all__ = ["AttackBudget", "adversarial_reinjection", "benign_relearning", "split_facts"]
