import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import MODEL_UTILITY_PARTS, model_utility

EQUAL = dict.fromkeys(MODEL_UTILITY_PARTS, 0.5)


def test_there_are_nine_parts():
    assert len(set(MODEL_UTILITY_PARTS)) == 9


def test_equal_parts_give_that_part():
    assert model_utility(EQUAL) == 0.5


def test_harmonic_mean_of_unequal_parts():
    # Eight reciprocals of 2 and one of 4: 9 / 20.
    assert model_utility(EQUAL | {"wf_Truth_Ratio": 0.25}) == pytest.approx(0.45, rel=1e-15)


def test_a_zero_part_gives_zero():
    assert model_utility(EQUAL | {"ra_Q_A_ROUGE": 0}) == 0.0


def test_other_names_are_ignored():
    assert model_utility(EQUAL | {"forget_Q_A_Prob": float("nan")}) == 0.5


@pytest.mark.parametrize("name", MODEL_UTILITY_PARTS)
def test_a_missing_part_is_named(name):
    parts = {key: value for key, value in EQUAL.items() if key != name}
    with pytest.raises(InputError, match=f"lacks {name}:"):
        model_utility(parts)


def test_all_missing_parts_are_named():
    with pytest.raises(InputError, match=r"lacks retain_Q_A_Prob, ra_Q_A_Prob_normalised, .*wf_Truth_Ratio"):
        model_utility({})


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1, None, [0.5]])
def test_a_bad_part_is_named(value):
    with pytest.raises(InputError, match=r"^ra_Truth_Ratio must"):
        model_utility(EQUAL | {"ra_Truth_Ratio": value})
