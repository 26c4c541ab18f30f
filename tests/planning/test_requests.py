"""What is said of a request as soon as it is served."""

import pytest

from llm_unlearn.planning.requests import (
    AVOIDED,
    FORGOTTEN,
    KNOWN,
    LOST,
    NOT_REACHED,
    judgment,
    left_of,
    of_earlier,
)


def measured(knowledge=(0.5,), probability=(0.4,), oracle=None, kept=0.97):
    both = {"knowledge": [*knowledge], "probability": [*probability]}
    return both | {"oracle_probability": oracle and [*oracle], "kept": kept}


@pytest.mark.parametrize(
    ("found", "stopped", "words"),
    [
        (measured(), False, NOT_REACHED),
        (measured((0.7, 0.65), (0.4, 0.4)), True, KNOWN),  # 0.175 over ignorance on average
        (measured((0.7, 0.55), (0.4, 0.4)), True, FORGOTTEN),  # 0.125
        (measured((0.2, 0.4), (0.4, 0.4)), True, AVOIDED),
        (measured((None,), (0.9,), (0.6,)), True, KNOWN),  # without knowledge, beside the oracle
        (measured((None,), (0.9,)), True, FORGOTTEN),  # with nothing to compare with, nothing is said against it
        (measured(kept=0.94), True, LOST),
        (measured(kept=None), True, FORGOTTEN),
    ],
)
def test_judgments(found, stopped, words):
    assert judgment(found, stopped, has_limits=True) == words


def test_without_stopping_scores_none_is_missed():
    assert judgment(measured(), stopped=False, has_limits=False) == FORGOTTEN


def test_each_request_beside_its_own_ignorance():
    found = measured((0.75, None, None), (0.9, 0.9, 0.9), (0.1, 0.4, 0.5))
    assert left_of(found) == pytest.approx([0.25, 0.5, 0.4])
    assert left_of(measured((0.75, None), (0.9, 0.9))) == [0.25]
    assert of_earlier([0.5]) is None and of_earlier([0.5, None, 0.9]) == 0.5 and of_earlier([0.25, 0.75, 0]) == 0.5
