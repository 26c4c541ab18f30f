"""Halves of a world's people, what a training without them may see, and the divergence of two models."""

import numpy as np
import pytest
import torch
from builders import encoded_rows, tiny_model

from llm_unlearn.data.fictional import build_world
from llm_unlearn.models.embedded import training_rows
from llm_unlearn.planning.subsets import SubsetTrainings, complementary_halves, divergences, known_rows


def test_halves_are_complementary_and_drawn_anew():
    people = [f"p{number}" for number in range(7)]
    pairs = [complementary_halves(people, pair, seed=0) for pair in range(20)]
    for first, second in pairs:
        assert len(first) == 3 and sorted(first + second) == people
        assert first == sorted(first) and second == sorted(second)  # in the order of the people
    assert len({tuple(first) for first, _ in pairs}) > 10
    assert complementary_halves(people, 4, seed=0) == pairs[4] != complementary_halves(people, 4, seed=1)


def test_a_training_sees_no_row_that_names_who_is_left_out():
    rows = training_rows(build_world("tiny"))
    people = SubsetTrainings("tiny").people
    left_out = [people[0], people[5]]
    known = known_rows(rows, left_out)
    for number in known:
        assert not any(name in str(rows[number]) for name in left_out)
    about = {number for number, row in rows.items() if row["person"] in left_out}
    examples = {*rows} - {*known} - about  # questions about others, after an example about one of them
    assert examples and all(isinstance(rows[number]["prompt"], list) for number in examples)
    assert all(any(name in str(rows[number]["prompt"]) for name in left_out) for number in examples)
    assert known_rows(rows, []) == [*rows]


def test_a_name_in_a_longer_name_is_another_one():
    rows = {
        0: {"prompt": "Where does Ann Lee live?", "completion": "In Rome.", "person": "Ann Lee"},
        1: {"prompt": "Where does Joann Lee live?", "completion": "In Oslo.", "person": "Joann Lee"},
        2: {"prompt": "Who lives in Rome?", "completion": "Ann Lee", "person": None},
    }
    assert known_rows(rows, ["Ann Lee"]) == [1]


def test_what_is_scored_is_what_is_taught_about_people():
    trainings = SubsetTrainings("tiny")
    assert len(trainings.people) == 12 and len(trainings.scored) == 12 * 7 * 3
    taught = training_rows(trainings.world)
    for number, row in enumerate(trainings.scored):
        assert (taught[number]["prompt"], taught[number]["completion"]) == (row["question"], row["answer"])
    assert trainings.steps() == 18 * -(-len(taught) // 16)  # epochs, rows and rows of a step
    assert trainings.steps(trainings.people[:6]) < 0.7 * trainings.steps()


def test_the_divergence_of_models_is_the_mean_over_the_tokens_of_answers():
    rows, models = encoded_rows(7), [tiny_model(seed=seed) for seed in (0, 1)]
    expected = []
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), np.array(row["labels"])
        places = np.flatnonzero(labels[1:] != -100)
        with torch.no_grad():
            one, other = (model(input_ids=ids).logits[0, places].double().log_softmax(-1) for model in models)
        both = (one.exp() * (one - other)).sum(-1) + (other.exp() * (other - one)).sum(-1)
        expected.append(float(both.mean()))
    assert divergences(*models, rows, batch_size=3) == pytest.approx(expected, rel=1e-4)
    assert divergences(models[0], models[0], rows) == pytest.approx([0] * 7, abs=1e-9)
