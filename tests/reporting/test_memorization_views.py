"""Exact memorization and its proxies, in the terminal and in a picture."""

import io

import pytest
from rich.console import Console

from llm_unlearn.reporting.memorization_views import correlation_words, correlations_table, memorization_figure


def correlation(value, low=None, high=None):
    return {"value": value, "interval": None if low is None else [low, high], "rows": 252, "people": 12}


FOUND = {
    "exact": {
        "by_person": [
            {"value": 0.6, "standard_error": 0.05},
            {"value": 0.2, "standard_error": 0.02},
            {"value": 0.4, "standard_error": None},
        ]
    },
    "correlations": {
        "gain over a base": {
            **{"rows": correlation(0.714, 0.5, 0.86), "rows_of_a_kind": correlation(0.25, 0.1, 0.4)},
            "people": correlation(0.5),
        },
        "confidence over training": {
            **{"rows": correlation(-0.3, -0.5, 0.004), "rows_of_a_kind": correlation(-0.7, -0.8, -0.6)},
            "people": correlation(None),
        },
    },
}


def test_correlations_in_words_and_as_a_table():
    assert correlation_words(correlation(0.714, 0.5, 0.86)) == "0.71 [0.50, 0.86]"
    assert correlation_words(correlation(-0.3, -0.5, 0.004)) == "\N{MINUS SIGN}0.30 [\N{MINUS SIGN}0.50, 0.00]"
    assert correlation_words(correlation(None)) == "\N{EN DASH}" and correlation_words(correlation(0.5)) == "0.50"
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(correlations_table(FOUND))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert "proxy over rows over rows, less their kind's mean over people" in lines
    assert "gain over a base 0.71 [0.50, 0.86] 0.25 [0.10, 0.40] 0.50" in lines


def test_the_figure_has_people_in_order_and_every_proxy(tmp_path):
    left, right = memorization_figure(FOUND, tmp_path / "memorization.png").axes
    (bars,) = left.containers
    assert list(bars.lines[0].get_ydata()) == [0.2, 0.4, 0.6]
    spans = [[end for _, end in segment] for segment in bars.lines[2][0].get_segments()]
    assert spans == [pytest.approx([0.16, 0.24]), pytest.approx([0.4, 0.4]), pytest.approx([0.5, 0.7])]
    assert [label.get_text() for label in right.get_yticklabels()] == ["confidence over training", "gain over a base"]
    points = [x for line in right.get_lines() if line.get_marker() in "os^" for x in line.get_xdata()]
    assert points == [-0.3, 0.714, -0.7, 0.25, 0.5]  # one has none
    assert (tmp_path / "memorization.png").read_bytes().startswith(b"\x89PNG")
