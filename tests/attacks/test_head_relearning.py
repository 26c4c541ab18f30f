"""Relearning by one part of a model: what is trained, what stays, and what of it comes back."""

import copy

import pytest
import torch
from builders import encoded_rows, tiny_model

from llm_unlearn.attacks import relearning
from llm_unlearn.attacks.adversarial_reinjection import adversarial_reinjection
from llm_unlearn.attacks.copies import attackable_copy, only_trainable
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.models.finetuning import finetune

BUDGET = AttackBudget((5e-3,), 0.5, seeds=(0,), steps=3, batch_size=4, score_every=2, attackers=("full", "lora"))
PARTS = ("head", "blocks")


def changed(before: torch.nn.Module, after: torch.nn.Module) -> set[str]:
    values = after.state_dict()
    return {name for name, value in before.state_dict().items() if not torch.equal(value, values[name])}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("family", "inside"), [("llama", "model.layers."), ("gpt2", "transformer.h.")])
def test_one_part_is_trained_and_all_else_stays(family, inside, tied):
    model = tiny_model(family, tie_word_embeddings=tied)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    ids = torch.tensor([[5, 6, 7]])
    for part in PARTS:
        attacked = only_trainable(attackable_copy(model), part)
        with torch.no_grad():
            assert torch.equal(attacked(ids).logits, model(ids).logits)  # untied, it says what it said
        finetune(attacked, encoded_rows(4), learning_rate=5e-3, steps=2, batch_size=4, seed=0)
        names = changed(model, attacked)
        if part == "head":
            assert names == {"lm_head.weight"}
            assert not attacked.config.tie_word_embeddings and not attacked.all_tied_weights_keys
        else:
            assert names and all(name.startswith(inside) for name in names)
            assert attacked.config.tie_word_embeddings == tied


@pytest.mark.parametrize("part", PARTS)
def test_the_one_loop_trains_it_with_the_rates_of_full_fine_tuning(part, monkeypatch):
    model, trained, real = tiny_model(tie_word_embeddings=True), [], relearning.finetune
    before = copy.deepcopy(model.state_dict())

    def watch(attacked, rows, **options):
        trained.append(([name for name, p in attacked.named_parameters() if p.requires_grad], options["learning_rate"]))
        return real(attacked, rows, **options)

    monkeypatch.setattr(relearning, "finetune", watch)
    outcome = adversarial_reinjection(model, encoded_rows(6), encoded_rows(2, 20), BUDGET, part=part)
    ((names, learning_rate),) = trained  # no run of the lora attacker
    assert learning_rate == 5e-3
    assert names == ["lm_head.weight"] if part == "head" else all(".layers." in name for name in names)
    assert outcome["attacker"] == part and [run["attacker"] for run in outcome["runs"]] == [part]
    assert [point["step"] for point in outcome["curve"]] == [0, 2, 3]
    assert outcome["curve"][-1]["forget_probability"] != outcome["curve"][0]["forget_probability"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
