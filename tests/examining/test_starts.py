"""Every curve begins at the model's own score: what was attacked is what was scored."""

import pytest
import torch
from builders import encoded_rows, tiny_model, with_trained_adapter

from llm_unlearn.attacks.adversarial_reinjection import adversarial_reinjection
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.errors import InputError
from llm_unlearn.examining.starts import EXACT, ROUNDED, check_starts, is_same, tolerance_of
from llm_unlearn.models.scoring import score_answers

OWN = {"0": {"prob": 0.5}, "1": {"prob": 0.2}, "2": {"prob": 0.4}}


def outcome(start: float, rows=("1", "2")) -> dict:
    return {"runs": [{"curve": [{"step": 0, "forget_probability": start}], "value_by_index": dict.fromkeys(rows)}]}


def test_a_start_is_compared_with_the_mean_over_the_rows_of_its_run():
    loaded = []

    def load():
        loaded.append(tiny_model())
        return loaded[-1]

    check_starts("oracle", OWN, {"one": outcome(0.3), "two": outcome(0.3029), "three": {"variants": {}}}, load)
    assert not loaded  # its type is asked for only where float32 would not have rounded so
    with pytest.raises(InputError) as refused:
        check_starts("oracle", OWN, {"one": outcome(0.305)}, load)
    assert str(refused.value).startswith(
        "oracle: one begins at a forget probability of 0.305 and the model itself scores 0.3, so what was attacked is "
        "not what was scored (allowed: a factor of 1.01 and a difference of 0.01); "
    )
    in_16_bits = {"load": lambda: tiny_model().to(torch.bfloat16)}
    check_starts("oracle", OWN, {"one": outcome(0.305)}, **in_16_bits)
    with pytest.raises(InputError, match=r"scores 0.367, .*a factor of 4 and a difference of 0.1\)"):
        check_starts("oracle", OWN, {"one": outcome(0.2, "012")}, **in_16_bits)


def test_both_sides_of_the_control_are_compared_with_what_the_model_says_to_their_own_rows():
    def side(start: float) -> dict:
        before = {"0": {"probability": 0.6}, "1": {"probability": 0.1}, "2": {"probability": 0.3}}
        return outcome(start) | {"before_by_index": before}  # 0.2 of the rows that are scored

    good = {"true": side(0.2), "counterfactual": {"0": side(0.2), "1": side(0.2)}}
    check_starts("oracle", OWN, {"counterfactual_control": good}, tiny_model)
    bad = good | {"counterfactual": {"0": side(0.2), "1": side(0.3)}}
    with pytest.raises(InputError, match=r"counterfactual_control begins at a forget probability of 0.3 and .* 0.2,"):
        check_starts("oracle", OWN, {"counterfactual_control": bad}, tiny_model)


def test_tolerances():
    assert is_same(2.7e-9, 9e-7, EXACT)  # that is nothing
    assert not is_same(2.7e-9, 5.1e-4, ROUNDED) and not is_same(5.1e-4, 2.7e-9, ROUNDED)
    assert is_same(0.02, 0.06, ROUNDED) and not is_same(0.02, 0.09, ROUNDED)  # by factor
    assert is_same(0.5, 0.59, ROUNDED) and not is_same(0.5, 0.61, ROUNDED)  # by difference
    assert not is_same(float("nan"), 0.5, ROUNDED) and not is_same(0.5, float("nan"), ROUNDED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("adapted", [False, True])
def test_both_attackers_begin_where_the_model_is(dtype, adapted):
    model, rows = tiny_model(tie_word_embeddings=True).to(dtype), encoded_rows(8)
    if adapted:
        model = with_trained_adapter(model, target_modules=["embed_tokens", "lm_head", "up_proj"])
    budget, facts = (
        AttackBudget(learning_rates=(1e-3,), seeds=(0,), steps=1, attackers=("full", "lora"), lora_r=2),
        range(8),
    )
    found = adversarial_reinjection(model, rows, [], budget, facts, "attack")
    own = {str(i): {"prob": score.probability} for i, score in enumerate(score_answers(model, rows))}
    assert len(found["runs"]) == 2 and tolerance_of(model) == (EXACT if dtype == torch.float32 else ROUNDED)
    check_starts("model", own, {"adversarial_reinjection": found}, lambda: model)
