"""Tables of retrain consistency and unlearning depth: every model in its place, and what is missing named."""

from llm_unlearn.reporting.inside_table import inside_sections
from llm_unlearn.reporting.words import NOTHING, number_words


def number(value: float | None, interval: list[float] | None = None) -> dict:
    return {"by_layer": [value], "value": value, "interval": interval}


def consistency(forget: float) -> dict:
    names = ("retain_consistency", "asymmetry", "direction", "magnitude", "concentration")
    numbers = {"forget_consistency": number(forget, [forget - 0.1, forget + 0.1]), "original_asymmetry": number(0.7)}
    numbers |= {name: number(None) for name in names}
    return {"value": {"raw": numbers, "aligned": numbers, "cka": {"forget": [0.25, None], "retain": [None]}}}


def depth(uds: float) -> dict:
    one = {"uds": uds, "interval": None, "unclipped": 1.5, "by_layer": [0.1, None], "rows": 3, "rows_left_out": 1}
    return one | {"reference": "oracle", "tokens": "values"}


def test_ceilings_stand_first_and_places_apart():
    labels = {"oracle_1": "oracle 1", "unlearned": "npo"}
    results = {
        "labels": labels,
        "consistency": {"unlearned": consistency(-0.25)},
        "consistency_ceiling": {"oracle_1": consistency(0.5)},
        "depth": {"unlearned": depth(0.75)},
    }
    first, second = inside_sections(results)
    assert first.title == "retrain consistency, before the value" and "asymmetry 0.70" in first.caption
    minus, dashes = number_words(-0.25, 2), [NOTHING] * 5
    assert first.rows[0] == ["oracle 1 (ceiling)", "0.50 [0.40, 0.60]", *dashes, "0.50", "0.25"]
    assert first.rows[1] == [
        "npo",
        " ".join([minus, f"[{number_words(-0.35, 2)}, {number_words(-0.15, 2)}]"]),
        *dashes,
        minus,
        "0.25",
    ]
    assert all(len(row) == len(first.columns) for row in first.rows)
    assert second.rows == [["npo", "0.75", "1.50", f"0.10 {NOTHING}", "3 of 4"]]
    assert "of the oracle" in second.caption and "second oracle" not in first.caption
    (alone,) = inside_sections({"labels": labels, "consistency": {"unlearned": consistency(0.1)}})
    assert alone.caption.endswith("No ceiling: that takes a second oracle.")
    assert inside_sections({"labels": labels, "consistency": {}, "depth": {}}) == []
