"""Entanglement, tug of war and memorization by values worked by hand and by plain loops; groups by ids."""

import math
import random

import numpy as np
import pytest
from datasets import Dataset

from llm_unlearn.errors import InputError
from llm_unlearn.planning.entanglement import (
    best_layer,
    centred_by_kind,
    entanglement_by_unit,
    entanglement_score,
    separation,
)
from llm_unlearn.planning.groups import levels, mean_by_unit, rows_by_group, units_together
from llm_unlearn.planning.memorization import knowledge_margin, memorization_gain
from llm_unlearn.planning.tow import tug_of_war, tug_of_war_of


def naive_score(retain, forget):
    """The published formula, one float after the other."""

    def centre(rows):
        return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]

    def squared(one, other):
        return math.fsum((a - b) ** 2 for a, b in zip(one, other, strict=True))

    mu_r, mu_s = centre(retain), centre(forget)
    mu = [(a + b) / 2 for a, b in zip(mu_r, mu_s, strict=True)]
    spread = math.fsum(squared(row, mu_r) for row in retain) / len(retain)
    spread += math.fsum(squared(row, mu_s) for row in forget) / len(forget)
    return spread / (0.5 * (squared(mu_r, mu) + squared(mu_s, mu)))


def test_entanglement_by_hand():
    # centroids (0, 1) and (4, 1), mu (2, 1): spreads 1 and 4 over 0.5 (4 + 4)
    assert entanglement_score([[0, 0], [0, 2]], [[2, 1], [6, 1]]) == 1.25
    # one retain row has no spread: 4 over 0.5 (25 / 4 + 25 / 4), for (1, -3) and (4, 1) are 5 apart
    assert entanglement_score([[1, -3]], [[2, 1], [6, 1]]) == pytest.approx(0.64, abs=1e-15)


def test_entanglement_as_plain_loops_have_it_whatever_scale_and_place():
    draw = random.Random(0)
    retain, forget = ([[draw.gauss(m, 1) for _ in range(5)] for _ in range(n)] for m, n in ((0, 40), (0.3, 7)))
    expected = naive_score(retain, forget)
    assert entanglement_score(retain, forget) == pytest.approx(expected, rel=1e-12)
    assert entanglement_score(7 - 3 * np.array(retain), 7 - 3 * np.array(forget)) == pytest.approx(expected, rel=1e-9)
    units = ["a", "b", "a", "b", "b", "c", "a"]
    for unit, score in entanglement_by_unit(retain, forget, units).items():
        own = [row for row, one in zip(forget, units, strict=True) if one == unit]
        assert score == pytest.approx(naive_score(retain, own), rel=1e-12)


def test_what_rows_owe_to_their_kind_is_taken_off():
    retain, forget = [[0.0, 0], [2, 0], [10, 0], [12, 2]], [[1.0, 3], [11, 4]]
    kinds = ["city", "city", "food", "food"]
    own_retain, own_forget = centred_by_kind(retain, forget, kinds, ["city", "food"])
    assert own_retain.tolist() == [[-1, 0], [1, 0], [-1, -1], [1, 1]]  # means (1, 0) and (11, 1)
    assert own_forget.tolist() == [[0, 3], [0, 3]]
    assert entanglement_score(own_retain, own_forget) == pytest.approx(1.5 / (0.5 * 2 * 1.5**2))
    with pytest.raises(InputError, match="kind 'pet', of which there is no retain row"):
        centred_by_kind(retain, forget, kinds, ["city", "pet"])


def test_the_layer_that_tells_units_apart():
    units = ["a", "a", "b", "b"]
    # centroids 1 and 5 around 3: 4 between, 1 within; and 2 and 4 around 3: 1 between, 4 within
    assert separation([[0.0], [2], [4], [6]], units) == 4
    assert separation([[0.0], [4], [2], [6]], units) == 0.25
    assert best_layer({0: [[0.0], [4], [2], [6]], 3: [[0.0], [2], [4], [6]]}, units) == 3
    for wrong in (["a"] * 4, ["a", "b", "c", "d"]):
        with pytest.raises(InputError, match="too few to tell units from rows"):
            separation([[0.0], [2], [4], [6]], wrong)


@pytest.mark.parametrize(
    ("retain", "forget", "message"),
    [
        ([], [[1.0]], r"retain embeddings have shape \(0,\)"),
        ([[1.0]], [1.0], r"forget embeddings have shape \(1,\)"),
        ([[1.0]], [[math.nan]], "forget embeddings hold NaN"),
        ([[1.0]], [[1.0, 2.0]], "have widths 1 and 2"),
        ([[1.0], [3.0]], [[2.0]], "have the same centroid"),
    ],
)
def test_embeddings_without_a_score(retain, forget, message):
    with pytest.raises(InputError, match=message):
        entanglement_score(retain, forget)


def test_tug_of_war_by_hand():
    oracle = {"forget": 0.1, "retain": 0.9, "test": 0.8}
    assert tug_of_war(oracle, oracle) == 1
    # 1 - 0.3, 1 - 0.1, 1 - 0.2; below the oracle counts like above
    assert tug_of_war({"forget": 0.4, "retain": 0.8, "test": 0.6}, oracle) == pytest.approx(0.7 * 0.9 * 0.8)
    assert tug_of_war({"forget": 0.0}, {"forget": 1.0}) == 0
    with pytest.raises(InputError, match="the same ones"):
        tug_of_war({"forget": 0.4}, oracle)
    with pytest.raises(InputError, match=r"accuracy on forget is 1.2"):
        tug_of_war({"forget": 1.2}, {"forget": 0.1})


def test_tug_of_war_of_results_takes_the_mean_oracle_and_all_other_abilities():
    def model(forget, retain, *others):
        abilities = {"retain": retain, **{f"ability_{number}": value for number, value in enumerate(others)}}
        return {"forget_exact_match": forget}, {name: {"exact_match": value} for name, value in abilities.items()}

    models = {"original": model(1, 1, 1, 1), "unlearned": model(0.2, 0.8, 0.5, 0.7)}
    results = {"scores": {n: m[0] for n, m in models.items()}, "abilities": {n: m[1] for n, m in models.items()}}
    assert tug_of_war_of(results) is None
    for name, found in (("oracle", model(0.0, 1.0, 0.8, 0.6)), ("oracle_1", model(0.2, 0.8, 1.0, 0.8))):
        results["scores"][name], results["abilities"][name] = found
    found = tug_of_war_of(results)
    assert found["oracle"] == pytest.approx({"forget": 0.1, "retain": 0.9, "test": 0.8})
    assert found["unlearned"] == pytest.approx({"forget": 0.2, "retain": 0.8, "test": 0.6})
    assert found["value"] == pytest.approx(0.9 * 0.9 * 0.8)


def test_memorization_by_hand():
    assert memorization_gain([1.0, 0.5], [0.25, 0.75]).tolist() == [0.75, -0.25]
    assert knowledge_margin([0.75, 0.5, 0.5], [[0.25, 0.75], [], [0.5]]) == [0.25, None, 0]
    with pytest.raises(InputError, match=r"shapes \(2,\) and \(1,\)"):
        memorization_gain([1.0, 0.5], [0.25])
    for wrong in (1.5, math.nan):
        with pytest.raises(InputError, match="probabilities of base must lie between 0 and 1"):
            memorization_gain([0.5], [wrong])
        with pytest.raises(InputError, match="probabilities of made-up answers must lie between 0 and 1"):
            knowledge_margin([0.5], [[wrong]])
    with pytest.raises(InputError, match="2 true answers and 1 lists"):
        knowledge_margin([0.5, 0.5], [[]])


def test_facts_of_a_person_stay_together_in_thirds():
    people = ["Ann", "Ben", "Ann", "Cal", None, "Dora"]
    rows = Dataset.from_list([{"question": f"What {i}", "answer": "a", "person": p} for i, p in enumerate(people)])
    units = units_together(rows)
    assert units == [("person", p) if p else ("fact", 4) for p in people]
    scores = mean_by_unit([0.5, 0.25, 1.0, 0.125, None, 1.0], units)
    assert [*scores.values()] == [0.75, 0.25, 0.125, 1.0]  # the row without a score is in no group
    found = rows_by_group(units, levels(scores))
    assert found == {"low": [1, 3], "middle": [0, 2], "high": [5]}  # the first third is the larger one
    assert units_together(rows.select([0, 2])) == [("fact", 0), ("fact", 1)]  # without two people, facts
    with pytest.raises(InputError, match=r"2 people .* cannot be split into 3 groups"):
        levels({"a": 1.0, "b": 2.0})
