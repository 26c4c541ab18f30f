"""Readouts on features whose content is known: what is in them is found, and a name is not taken for it."""

import numpy as np

from llm_unlearn.metrics.readouts import (
    STRENGTHS,
    Labeled,
    chosen_strength,
    cross_predicted,
    fitted,
    folds_of,
    shuffled,
)

PEOPLE, VALUES, WORDINGS = 18, 3, 2


def rows(value: float, name: float) -> Labeled:
    """Each person in two wordings; columns for values and for names, set to these numbers."""
    people = np.repeat(np.arange(PEOPLE), WORDINGS)
    features = np.hstack([value * np.eye(VALUES)[people % VALUES], name * np.eye(PEOPLE)[people]])
    return Labeled(features, np.array(["red", "green", "blue"])[people % VALUES], np.array([f"p{i}" for i in people]))


def test_a_value_is_read_off_strangers_and_a_name_says_nothing_about_them():
    strength = max(STRENGTHS)  # with which names are learned best
    told, nameless, named = rows(1, 1), rows(1, 0), rows(0, 1)
    for known in (told, nameless):
        (said,) = cross_predicted(known, strength, known)
        assert (said == known.labels).all()
    (said,) = cross_predicted(named, strength, named)
    # Learned by heart, the name gives every label; of whoever was left out it gives none.
    assert (fitted(named, strength).predict(named.features) == named.labels).all()
    assert (said == named.labels).mean() <= 1 / 3


def test_log_odds_are_those_of_the_second_label():
    known = rows(1, 0)
    binary = Labeled(known.features, known.labels == "red", known.people)
    (log_odds,) = cross_predicted(binary, 0.1, binary, method="decision_function")
    assert ((log_odds > 0) == binary.labels).all() and (np.abs(log_odds) > 0.1).all()


def test_people_of_one_label_lie_in_different_folds():
    known = Labeled(np.zeros((6, 1)), np.array(["a", "b", "a", "b", "b", "c"]), np.array(list("uvwxyz")))
    assert folds_of(known) == {"u": 0, "w": 1, "v": 2, "x": 3, "y": 4, "z": 0}


def test_tests_are_predicted_by_whom_they_are_about():
    """Of the other rows of a person, the readout that left this person out speaks."""
    named = rows(0, 1)
    other = Labeled(named.features[::-1], named.labels[::-1], named.people[::-1])
    first, second = cross_predicted(named, 0.1, named, other)
    assert (first[::-1] == second).all()


def test_among_equals_the_strength_that_holds_back_most():
    assert chosen_strength(lambda _: 0.5) == min(STRENGTHS)
    assert chosen_strength(lambda strength: strength) == max(STRENGTHS)


def test_shuffled_labels_stay_with_people():
    known = rows(1, 0)
    dealt = shuffled(known, 0)
    assert (dealt.labels[::2] == dealt.labels[1::2]).all() and (dealt.labels != known.labels).any()
    assert sorted(dealt.labels) == sorted(known.labels) and (dealt.people == known.people).all()
