"""What audits found, as evidence: by whom it is decided, and what is only said."""

import pytest
from made_up_runs import ROWS, run

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.errors import InputError
from llm_unlearn.examining.verdict import verdict_of


def probes(right: int, shuffled: float = 0.1, members: float | None = None) -> dict:
    """Readouts that are right about the first so many of every ten rows."""
    found = {
        "block": 1,
        "layers": [{"forgotten": 0.0, "shuffled": 0.9}, {"forgotten": right / 10, "shuffled": shuffled}],
        "majority": 0.1,
        "value_by_index": {str(row): float(row % 10 < right) for row in range(ROWS)},
    }
    return found if members is None else found | {"membership": {"forgotten": members}}


def audited(unlearned: dict, **more) -> dict:
    """What `--audits probes` leaves in results.json: the original knows nine of ten values, oracles one of ten."""
    oracles = {name: probes(1, members=0.0) for name in ("oracle", "oracle_1", "oracle_2")}
    return {"probes": {"original": probes(9), **oracles, "unlearned": unlearned}, "not_measured": {}} | more


def judged(audits: dict | None, unlearned: dict | None = None, **results) -> dict:
    made, records = run(unlearned=unlearned or {})
    return verdict_of(made | ({} if audits is None else {"audits": audits}) | results, records)


def inside(verdict: dict) -> dict:
    return {finding["name"]: finding for finding in verdict["evidence"] if finding["kind"] == "inside"}


def test_what_is_read_off_speaks_against_erasure():
    assert judged(None)["verdict"] == "erased"
    verdict = judged(audited(probes(5)))
    assert verdict["verdict"] == "hidden"
    assert "inside, its share of values read off its hidden states on forgotten facts is 0.50" in verdict["sentence"]
    finding = inside(verdict)["probes"]
    assert (finding["original"], finding["oracle"], finding["unlearned"]) == pytest.approx((0.9, 0.1, 0.5))
    assert finding["excess"] == pytest.approx(0.4) and finding["erasure"] == pytest.approx(0.5)
    assert finding["decides"] and finding["flagged"]


def test_no_more_than_off_oracles_changes_nothing():
    verdict = judged(audited(probes(1)))
    assert verdict["verdict"] == "erased" and not inside(verdict)["probes"]["flagged"]


def test_an_attack_is_the_first_reason():
    verdict = judged(audited(probes(5)), {"after": 0.8})
    assert verdict["verdict"] == "hidden" and verdict["reasons"][0].startswith("after reinjection")
    assert verdict["reasons"][-1].startswith("inside")


def test_readouts_of_shuffled_labels_that_find_as_much_decide_nothing():
    verdict = judged(audited(probes(5, shuffled=0.5)))
    assert verdict["verdict"] == "erased"
    assert not inside(verdict)["probes"]["decides"]
    assert any("shuffled labels find as much" in remark for remark in verdict["remarks"])


def test_an_original_that_has_no_more_than_oracles_decides_nothing():
    audits = audited(probes(5))
    audits["probes"]["original"] = probes(2)
    verdict = judged(audits)
    assert verdict["verdict"] == "erased" and not inside(verdict)["probes"]["decides"]


def test_forgotten_people_who_pass_for_trained_ones_are_a_remark():
    remarks = judged(audited(probes(1, members=1.0)))["remarks"]
    assert any("100 % of the forgotten people pass for people whom it was trained on" in remark for remark in remarks)
    assert not any("pass for" in remark for remark in judged(audited(probes(1, members=0.1)))["remarks"])
    audits = audited(probes(1, members=1.0))
    del audits["probes"]["oracle_2"]  # another one might say the same of people whom it never saw
    results, records = run(oracles=2, unlearned={})
    assert not any("pass for" in remark for remark in verdict_of(results | {"audits": audits}, records)["remarks"])


def depth(uds: float, unclipped: float) -> dict:
    return {"uds": uds, "interval": [uds - 0.1, uds + 0.1], "unclipped": unclipped, "by_layer": [uds]}


def consistency(value: float) -> dict:
    return {"value": {"aligned": {"forget_consistency": {"value": value, "interval": None, "by_layer": [value]}}}}


def test_depth_and_consistency_are_shown_and_decide_nothing():
    audits = {
        "depth": {"oracle_1": depth(1.0, 2.9), "oracle_2": depth(0.9, 2.9), "unlearned": depth(0.4, 1.7)},
        "consistency": {"unlearned": consistency(-0.2)},
        "consistency_ceiling": {"oracle_1": consistency(0.4), "oracle_2": consistency(0.3)},
        "not_measured": {"probes": "no row has a value"},
    }
    verdict = judged(audits)
    found = inside(verdict)
    assert verdict["verdict"] == "erased" and not any(finding["decides"] for finding in found.values())
    assert (found["depth"]["original"], found["depth"]["oracle"], found["depth"]["unlearned"]) == (0.0, 0.95, 0.4)
    assert found["depth"]["unlearned_interval"] == pytest.approx([0.3, 0.5])
    assert found["consistency"]["oracle"] == pytest.approx(0.35) and found["consistency"]["unlearned"] == -0.2
    remarks = " ".join(verdict["remarks"])
    assert "1.7 times what the oracle's do" in remarks
    assert "not measured inside, probes: no row has a value" in remarks


def test_a_ceiling_no_higher_than_the_original_is_said():
    audits = {
        "consistency": {"unlearned": consistency(0.2)},
        "consistency_ceiling": {"oracle_1": consistency(-0.1)},
        "not_measured": {},
    }
    assert any("it says nothing" in remark for remark in judged(audits)["remarks"])


def test_where_nobody_looked_it_is_said():
    remarks = judged(None)["remarks"]
    assert any("nobody looked inside" in remark for remark in remarks)
    assert any("nobody tuned the output head alone" in remark for remark in remarks)


def test_rows_that_there_are_not_are_refused():
    audits = audited(probes(1))
    audits["probes"]["unlearned"]["value_by_index"][str(ROWS)] = 1.0
    with pytest.raises(InputError, match=f"row {ROWS} of {ROWS} rows"):
        judged(audits)


def test_audits_that_verdicts_know():
    assert AttackArguments().audits == []
    assert AttackArguments(audits=["probes", "depth"]).audits == ["probes", "depth"]
    with pytest.raises(ValueError, match="'influence' is none that a verdict knows; choose from probes"):
        AttackArguments(audits=["influence"])
    with pytest.raises(ValueError, match="none stands alone"):
        AttackArguments(audits=["none", "probes"])
    with pytest.raises(ValueError, match="each of them once"):
        AttackArguments(audits=["probes", "probes"])
