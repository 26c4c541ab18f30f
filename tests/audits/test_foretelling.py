"""Which look foretells an attack: runs made up by hand, in which one audit ranks as the attack does."""

import pytest

from llm_unlearn.audits import foretelling
from llm_unlearn.audits.foretelling import attacked_before, foretold
from llm_unlearn.errors import InputError
from llm_unlearn.examining.results import write_evidence, write_verdict
from llm_unlearn.reporting.foretelling import foretelling_figure, foretelling_sections

BEFORE = [0.5, 0.6, 0.55, 0.7, 0.65, 0.8, 0.75, 0.9]
AFTER = [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0]


@pytest.fixture
def runs(monkeypatch):
    """Eight models of four methods; the last one is damaged."""
    known = {
        f"run{number}/adapter": {
            "method": f"method {number // 2}",
            "damaged": number == 7,
            "after": AFTER[number],
            "forget_knowledge": BEFORE[number],
            "forget_probability": 0.4,
        }
        for number in range(8)
    }
    monkeypatch.setattr(foretelling, "attacked_before", known.get)
    return {"original": "somewhere"} | {f"unlearned_{number}": path for number, path in enumerate(known)}


def findings() -> dict:
    layer = [{"block": 0, "layers": [{"forgotten": value}, {"forgotten": 1 - value}]} for value in AFTER]
    return {
        "probes": {f"unlearned_{number}": found for number, found in enumerate(layer)},
        "depth": {f"unlearned_{number}": {"uds": 1 - value} for number, value in enumerate(AFTER)},
        "consistency": {},
    }


def test_correlations_by_hand(runs):
    found, unread = foretold(findings(), runs)
    assert unread == {}
    assert (found["models"], found["methods"], found["undamaged"]) == (8, 4, 7)
    of = found["correlations"]
    assert of["read off, in the block that counts"]["all"]["value"] == pytest.approx(1.0)
    assert of["unlearning depth (UDS)"]["undamaged"]["value"] == pytest.approx(-1.0)
    # ranks before: 1 3 2 5 4 7 6 8, after: 1 to 8; squared differences sum to 6, so 1 - 6 * 6 / (8 * 63)
    assert of["knowledge, as asked"]["all"]["value"] == pytest.approx(1 - 36 / 504)
    low, high = of["knowledge, as asked"]["all"]["interval"]
    assert low < 1 - 36 / 504 < high
    assert of["probability, as asked"]["all"]["value"] is None  # all the same
    assert not any("exact match" in label or "consistency" in label for label in of)  # not measured
    assert found["points"]["unlearned_7"]["damaged"] and found["points"]["unlearned_0"]["after"] == 0.5


def test_too_few_models_foretell_nothing(runs):
    runs.pop("unlearned_0")
    assert foretold(findings(), runs) == (None, {})
    assert foretelling_sections({"foretold": None}) == []
    with pytest.raises(InputError, match="too few"):
        foretelling_figure({}, "nowhere.png")


def test_the_strongest_comes_first_and_is_drawn(runs, tmp_path):
    results = {"foretold": foretold(findings(), runs)[0]}
    (section,) = foretelling_sections(results)
    assert section.rows[0][0] in ("read off, in the block that counts", "unlearning depth (UDS)")
    assert section.rows[0][1].startswith(("1.00", "\N{MINUS SIGN}1.00"))
    assert "7 of them" in section.caption
    figure = foretelling_figure(results, tmp_path / "foretold.png")
    assert [len(axes.lines) for axes in figure.axes] == [4, 4, 4]  # a point for each method
    assert figure.axes[0].lines[-1].get_markerfacecolor() == "none"  # one of its models is damaged


def test_what_a_folder_says_of_its_model(tmp_path):
    assert attacked_before(str(tmp_path / "adapter")) is None
    evidence = [
        {"kind": "output", "name": "output", "label": "", "score": "forget_knowledge", "unlearned": 0.6},
        {
            "kind": "attack",
            "name": "adversarial_reinjection",
            "label": "",
            "score": "forget_knowledge",
            "unlearned": 0.8,
        },
        {"kind": "ability", "name": "forget_fluency", "label": "", "score": "well_formed", "flagged": True},
    ]
    write_evidence(tmp_path, {"method": "npo:beta=0.5", "config": {}}, {})
    lost = {"kind": "ability", "name": "general", "label": "", "score": "exact_match", "flagged": True}
    said = {"method": "npo", "after": 0.8, "forget_knowledge": 0.6}
    for abilities, damaged in (([], False), ([lost], True)):  # what it says instead is no ability
        write_verdict(tmp_path, {"verdict": "hidden", "sentence": "Hidden", "evidence": [*evidence, *abilities]})
        assert attacked_before(str(tmp_path / "adapter")) == said | {"damaged": damaged}
    write_verdict(tmp_path, {"verdict": "erased", "sentence": "Erased", "evidence": evidence[:1]})
    assert attacked_before(str(tmp_path / "adapter")) is None  # nobody attacked it
    (tmp_path / "verdict.json").write_text((tmp_path / "verdict.json").read_text().replace("0.6", "0.5"))
    found, unread = foretold({}, {"original": "somewhere", "unlearned": str(tmp_path / "adapter")})
    assert found is None and "was changed after it was written" in unread["what an attack brought back of unlearned"]
