"""What the command line lets the attacker spend."""

import pytest

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.groups import DataArguments
from llm_unlearn.attacks import attack_names
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.errors import InputError


def test_without_flags_two_relearning_attacks_run_with_full_finetuning_and_all_facts_are_asked_otherwise():
    arguments = AttackArguments()
    assert arguments.attacks == ["adversarial_reinjection", "benign_relearning", "head_relearning", "prompting"]
    assert arguments.counterfactual and not AttackArguments(attacks=["none"]).counterfactual
    assert {arguments.budget(attack) for attack in attack_names() if attack != "retain_relearning"} == {AttackBudget()}
    assert AttackBudget().grid == [("full", 1e-5)]


def test_each_attack_has_the_grid_of_its_kind_of_data():
    arguments = AttackArguments(
        attackers=["lora", "full"],
        reinjection_learning_rates=[1.0],
        benign_learning_rates=[2.0],
        reinjection_lora_learning_rates=[3.0, 4.0],
        benign_lora_learning_rates=[5.0],
        attack_lora_r=7,
        left_out_groups=3,
    )
    forget_rows, other_rows = [("lora", 3.0), ("lora", 4.0), ("full", 1.0)], [("lora", 5.0), ("full", 2.0)]
    assert arguments.budget("adversarial_reinjection").grid == forget_rows
    assert arguments.budget("leave_one_group_out").grid == forget_rows
    assert arguments.budget("benign_relearning").grid == other_rows
    assert arguments.budget("retain_relearning").grid == other_rows
    budget = arguments.budget("leave_one_group_out")
    assert (budget.lora_r, budget.left_out_groups) == (7, 3)


def test_what_is_found_late_is_looked_for_ten_times_as_long():
    budget = AttackArguments(attack_steps=7, attack_score_every=3).budget("retain_relearning")
    assert (budget.steps, budget.score_every) == (70, 30)


def test_what_only_spares_memory_is_in_the_budget_and_not_in_what_outcomes_are_remembered_by():
    arguments = AttackArguments(attack_micro_batch_size=2, attack_activation_checkpointing=True)
    budget = arguments.budget("benign_relearning")
    assert (budget.micro_batch_size, budget.activation_checkpointing) == (2, True)
    assert budget.key == AttackBudget().key != AttackBudget(batch_size=2).key
    assert {*vars(budget)} - {*budget.key} == {"micro_batch_size", "activation_checkpointing"}


def test_impossible_budgets_are_refused_at_once():
    with pytest.raises(InputError, match="choose from full, lora"):
        AttackArguments(attackers=["adapter"])
    with pytest.raises(InputError, match="left_out_groups=0 must be 1 or more"):
        AttackArguments(left_out_groups=0)


def test_the_model_is_pinned_to_a_revision(tmp_path):
    assert DataArguments(model_name_or_path="owner/name").model_paths() == ("owner/name", [])
    assert DataArguments(model_name_or_path="owner/name", revision="v1").model_paths() == ("owner/name@v1", [])
    for name in (None, str(tmp_path), "owner/name@v2"):
        with pytest.raises(InputError, match="revision='v1' pins a hub id as model_name_or_path"):
            DataArguments(model_name_or_path=name, revision="v1").model_paths()
