"""What is left before any attack, as one number, by hand."""

import pytest

from llm_unlearn.examining.left import ignorance, scores_by_style, what_is_left


def test_scores_are_read_from_the_records_by_style():
    def record(value):
        return {"agg_value": value, "value_by_index": {}}

    records = {"forget_knowledge": record(0.9), "forget_reversed_knowledge": record(0.6)}
    records |= {"forget_cloze_knowledge": record(None), "retain_reversed_knowledge": record(1.0)}
    records |= {"forget_Q_A_Prob": record(0.4), "forget_cloze_Q_A_Prob": record(0.3), "retain_Q_A_Prob": record(1.0)}
    knowledge, probability = {"verbatim": 0.9, "reversed": 0.6}, {"verbatim": 0.4, "cloze": 0.3}
    assert scores_by_style(records) == {"knowledge": knowledge, "probability": probability}


def test_ignorance_is_that_of_the_oracles_where_the_original_knows():
    def known(**by_style):
        return {"knowledge": by_style, "probability": dict.fromkeys(by_style, 1.0)}

    original = {"original": known(verbatim=1.0, reversed=0.65, cloze=0.64, prefix=0.9)}
    oracles = {"oracle": known(verbatim=0.4, reversed=0.5, cloze=0.5), "oracle_1": known(verbatim=0.5, cloze=0.4)}
    # the original's 0.64 as a gap to fill is less than 0.15 above 0.5: it cannot tell there
    score, found = ignorance(original | oracles)
    assert score == "knowledge" and found == pytest.approx({"verbatim": 0.45, "reversed": 0.5, "prefix": 0.5})
    assert ignorance(original) == ("knowledge", {"verbatim": 0.5, "reversed": 0.5, "prefix": 0.5})
    assert ignorance({"original": known(verbatim=0.5)}) == ("knowledge", {})


def test_without_answers_of_a_kind_the_oracles_probability_takes_the_place():
    def probable(**by_style):
        return {"knowledge": {}, "probability": by_style}

    original = {"original": probable(verbatim=0.9, reversed=0.5, cloze=0.9)}
    oracles = {"oracle": probable(verbatim=0.2, reversed=0.4), "oracle_1": probable(verbatim=0.4, reversed=0.4)}
    # in reverse the original is 0.1 above the oracles only; of the gap to fill no oracle was asked
    assert ignorance(original | oracles) == ("probability", {"verbatim": pytest.approx(0.3)})
    assert ignorance(original) == ("probability", {})


def test_the_mean_distance_from_ignorance_counts_and_the_style_that_is_farthest_is_named_also_below_it():
    ignorant = {"verbatim": 0.45, "reversed": 0.5, "prefix": 0.5}
    for own, style, value, excess in (
        ({"verbatim": 0.5, "reversed": 0.7, "cloze": 1.0}, "reversed", 0.7, 0.125),  # (0.05 + 0.2) / 2
        ({"verbatim": 0.15, "reversed": 0.7}, "verbatim", 0.15, 0.25),  # (0.3 + 0.2) / 2
        ({"verbatim": 0.45, "reversed": 0.5}, "verbatim", 0.45, 0.0),
    ):
        assert what_is_left(own, ignorant) == (style, value, pytest.approx(excess))
    assert what_is_left({"cloze": 1.0}, ignorant) is None
