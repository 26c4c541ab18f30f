"""The verdict on facts asked in reverse: what is known there, what may be chance, and what is a lost ability."""

import pytest
from made_up_runs import FACTS, ROWS, answer_records, run, wins

from llm_unlearn.examining.verdict import verdict_of


def asked_in_reverse(results, records, forget, retain):
    """Add reversed questions, one for each person; of both sides model -> (probability, knowledge)."""
    rows = list(range(0, ROWS, FACTS))
    results["style_rows"] = {"reversed": rows}
    results["units"] |= {"forget_reversed": list(range(len(rows))), "retain_reversed": list(range(len(rows)))}
    results["attacks"]["prompting"] = {}
    for model in records:
        sides = {"forget": forget, "retain": retain}
        for side, given in sides.items():
            probability, known = given.get(model, given["oracle"])
            name, by_row = f"{side}_reversed", {str(i): {"wins": wins(known, row)} for i, row in enumerate(rows)}
            records[model] |= answer_records(name, [probability] * len(rows), [0.0] * len(rows))
            records[model][f"{name}_knowledge"] = {"value_by_index": by_row}
    return results, records


def test_reversed_questions_that_look_erased_by_their_probability_show_what_is_known():
    forget = {"original": (0.96, 1.0), "oracle": (0.30, 0.5), "unlearned": (0.28, 0.95)}
    retain = {"oracle": (0.96, 1.0)}
    found = verdict_of(*asked_in_reverse(*run(kinds=True, unlearned={}), forget, retain))
    assert found["verdict"] == "hidden"
    assert found["reasons"][0].startswith("asked in reverse, it prefers the true answer to made-up ones in 95 %")
    evidence = {one["score"]: one for one in found["evidence"] if one["variant"] == "reversed"}
    probability, known = evidence["forget_probability"], evidence["forget_knowledge"]
    assert not probability["flagged"] and probability["erasure"] == pytest.approx(0.68 / 0.66)
    assert known["flagged"] and known["excess"] == pytest.approx(0.45) and known["erasure"] == pytest.approx(0.1)
    assert probability["selectivity"] == pytest.approx(0.68) and probability["note"] is None


@pytest.mark.parametrize(
    ("won", "verdict"), [((4, 4, 4, 4, 4, 4, 2, 0), "undecided"), ((4, 4, 4, 4, 3, 1, 0, 0), "erased")]
)
def test_what_leans_towards_knowledge_is_not_called_erased(won, verdict):
    """Of some people everything is known in reverse, and of others nothing: it may be chance, or more than half."""
    forget = {"original": (0.96, 1.0), "oracle": (0.30, 0.5), "unlearned": (0.30, 0.5)}
    results, records = asked_in_reverse(*run(kinds=True, unlearned={}), forget, {"oracle": (0.96, 1.0)})
    by_row = records["unlearned"]["forget_reversed_knowledge"]["value_by_index"]
    for row, of_four in zip(by_row, won, strict=True):
        by_row[row] = {"wins": [1.0] * of_four + [0.0] * (4 - of_four)}
    found = verdict_of(results, records)
    line = next(one for one in found["evidence"] if (one["variant"], one["score"]) == ("reversed", "forget_knowledge"))
    assert not line["flagged"] and line["lower"] <= 0 and line["unlearned"] == pytest.approx(sum(won) / 32)
    assert found["verdict"] == verdict
    if verdict == "undecided":
        assert found["reasons"][0].startswith("asked in reverse, it prefers the true answer to made-up ones in 81 %")
        assert found["reasons"][0].endswith("that may be knowledge or chance")
        assert "too wide" in found["missing"][0]


def test_a_style_that_retained_people_have_lost_as_well_is_no_sign_of_forgetting():
    forget = {"original": (0.96, 1.0), "oracle": (0.30, 0.5), "unlearned": (0.28, 0.5)}
    retain = {"oracle": (0.96, 1.0), "unlearned": (0.30, 0.6)}
    found = verdict_of(*asked_in_reverse(*run(kinds=True, unlearned={}), forget, retain))
    line = next(
        one for one in found["evidence"] if one["variant"] == "reversed" and one["score"] == "forget_probability"
    )
    assert line["selectivity"] == pytest.approx(0.68 - 0.66) and not line["decides"]
    assert line["note"].startswith("ability lost, not forgetting: the probability of retained facts fell by 0.66")
    assert any(
        "asked in other ways: reversed: ability lost" in r or "reversed: ability lost" in r for r in found["remarks"]
    )
    assert found["verdict"] == "over-unlearned"
    assert found["reasons"][0].startswith("retained facts, in reverse: mean answer probability 0.30")
