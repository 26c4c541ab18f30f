"""Which trial of a search is the best, by hand."""

import pytest

from llm_unlearn.runs.trials import best_trial, summed_up


def trial(excess, kept, steps=10, reached=True, diverged=False):
    return {"excess": excess, "kept": kept, "steps": steps, "reached": reached, "diverged": diverged}


DIVERGED = trial(None, None, reached=False, diverged=True)


def test_nearest_to_ignorance_of_those_that_keep_enough():
    trials = [trial(0.3, 1.0), trial(0.1, 0.9), trial(0.0, 0.89), DIVERGED, trial(0.2, 0.95)]
    assert best_trial(trials, 0.9) == (
        1,
        "nearest to ignorance of the 3 that reached the stopping score and kept 90 % of every ability",
    )
    assert best_trial(trials, 0.85)[0] == 2 and best_trial(trials, 0.96)[0] == 0


def test_equals_are_told_apart_by_what_they_keep_then_by_steps_then_by_their_order():
    assert best_trial([trial(0.1, 0.91), trial(0.1, 0.92)], 0.9)[0] == 1
    assert best_trial([trial(0.1, 0.92, steps=9), trial(0.1, 0.92, steps=8)], 0.9)[0] == 1
    assert best_trial([trial(0.1, 0.92), trial(0.1, 0.92)], 0.9)[0] == 0
    assert best_trial([trial(0.2, 0.5), trial(0.1, 0.5)], 0.9)[0] == 1


def test_where_none_keeps_enough_the_one_that_keeps_most_and_it_is_said():
    assert best_trial([trial(0.0, 0.2), trial(0.4, 0.7), DIVERGED], 0.9) == (
        1,
        "no trial that reached the stopping score kept 90 % of every ability: the one that keeps most",
    )


def test_who_forgets_nothing_does_not_win_by_keeping_everything():
    lazy = trial(0.5, 1.0, steps=100, reached=False)
    assert best_trial([lazy, trial(0.1, 0.6)], 0.9)[0] == 1  # though only the lazy one keeps enough
    assert best_trial([lazy, trial(0.3, 0.95, reached=False), trial(0.0, 0.1, reached=False)], 0.9) == (
        1,
        "no trial reached the stopping score; nearest to ignorance of the 2 that kept 90 % of every ability",
    )
    assert best_trial([trial(0.5, 0.5, reached=False), trial(0.3, 0.4, reached=False)], 0.9) == (
        0,
        "no trial reached the stopping score; no trial kept 90 % of every ability: the one that keeps most",
    )
    assert best_trial([DIVERGED, DIVERGED], 0.9) == (None, "every trial diverged")


REFERENCES = {
    "score": "knowledge",
    "ignorance": {"verbatim": 0.4, "reversed": 0.5},
    "abilities": {"retain": {"exact_match": 0.8}},
}


def run(verbatim, backwards, retain, steps=10, **changes):
    known = {"verbatim": verbatim, "reversed": backwards, "cloze": 1.0}
    found = {"by_style": {"knowledge": known, "probability": {}}, "abilities": {"retain": {"exact_match": retain}}}
    return found | {"steps": steps, "seconds": 2.0, "stopped_by": "forget exact match", "diverged": None} | changes


def test_means_over_seeds_come_before_the_distance_from_ignorance():
    # as trained (0.9 + 0.1) / 2 = 0.5, 0.1 above the oracle's; in reverse (0.3 + 0.2) / 2 = 0.25, 0.25 below ignorance
    found = summed_up([run(0.9, 0.3, 0.8), run(0.1, 0.2, 0.6, steps=13)], REFERENCES)
    assert found == {
        "diverged": False,
        "reached": True,
        "steps": 11.5,
        "seconds": 4.0,
        "style": "reversed",
        "value": 0.25,
        "excess": pytest.approx(0.175),  # (0.1 + 0.25) / 2
        "lowest_ability": "retain",
        "kept": pytest.approx(0.7 / 0.8),
    }


def test_one_seed_that_does_not_reach_the_score_or_diverges_is_enough():
    assert not summed_up([run(0.5, 0.5, 0.8), run(0.5, 0.5, 0.8, stopped_by=None)], REFERENCES)["reached"]
    diverged = {"steps": 3, "seconds": 1.0, "stopped_by": None, "diverged": "the loss is NaN"}
    found = summed_up([run(0.5, 0.5, 0.8), diverged], REFERENCES)
    assert found["diverged"] and not found["reached"] and found["excess"] is found["kept"] is found["style"] is None
    assert (found["steps"], found["seconds"]) == (6.5, 3.0)
