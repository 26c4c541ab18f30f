"""RUM as a command, and how groups and their methods are told."""

import json
import re
from dataclasses import replace

import pytest
from chains import asked, examination, flags, make_home, note_trainings
from datasets import Dataset

from llm_unlearn.errors import InputError
from llm_unlearn.planning.hardness import Hardness
from llm_unlearn.runs.chain import Step
from llm_unlearn.runs.rum import RumArguments, measured_groups, read_groups, rum

GROUPS = {"low": [0], "middle": [1], "high": [2]}
ROWS = Dataset.from_list([{"question": f"q{i}", "answer": "a"} for i in range(3)])


def test_groups_by_entanglement_are_measured_once(tmp_path, monkeypatch):
    home = make_home(tmp_path / "home")
    hardness = Hardness(examination(home), str(home / "original"), [])
    groups, found = measured_groups("entanglement", hardness, tmp_path)
    order = sorted(found["units"], key=lambda unit: unit["entanglement"])
    assert [sorted(rows) for rows in groups.values()] == [
        sorted(order[i]["rows"] + order[i + 1]["rows"]) for i in (0, 2, 4)
    ]
    monkeypatch.setattr(Hardness, "measure", lambda *_: pytest.fail("it was measured again"))
    assert measured_groups("entanglement", hardness, tmp_path)[0] == groups
    monkeypatch.undo()
    few = replace(hardness.examination.data, forget=hardness.examination.data.forget.select(range(4)))
    hardness.examination = replace(hardness.examination, data=few)
    with pytest.raises(InputError, match=r"groups=entanglement: 2 people .* cannot be split into 3 groups"):
        measured_groups("entanglement", hardness, tmp_path)


@pytest.mark.long  # its parts are tested on their own
def test_groups_by_memorization_are_forgotten_in_order(tmp_path, monkeypatch, capsys):
    home, trained, out = make_home(tmp_path / "home"), note_trainings(monkeypatch), tmp_path / "out"
    found = rum("", flags(home, out, "--group_methods", "npo", "low=none", "--max_steps=1"))
    groups = found["groups"]
    assert [*groups] == ["low", "middle", "high"] and sorted(row for rows in groups.values() for row in rows) == [
        *range(12)
    ]
    people = {name: sorted({row // 2 for row in rows}) for name, rows in groups.items()}
    assert [len(two) for two in people.values()] == [2, 2, 2]  # both rows of each person
    assert trained.forget == [asked(*people["middle"]), asked(*people["high"])]
    assert trained.retain == [asked(*range(6, 12), *people["high"]), asked(*range(6, 12))]
    assert found["hardness"]["memorization"]["score"] == "gain over the base"  # the oracle
    gains = [unit["memorization"] for unit in found["hardness"]["units"]]
    order = sorted(range(6), key=gains.__getitem__)
    assert people == {"low": sorted(order[:2]), "middle": sorted(order[2:4]), "high": sorted(order[4:])}

    results = json.loads((out / "results.json").read_text())
    assert (results["method"], results["method_title"]) == ("rum", "RUM, 3 groups by memorization")
    assert results["paper"]["arxiv"] == "2406.01257"
    assert results["training"]["steps"] == 2 and results["weights"] == found["steps"][2]["weights"]
    assert results["training"]["stopped_by"] == "step 2: end of training; step 3: end of training"
    assert json.loads((out / "rum.json").read_text()) == found and (out / "verdict.json").is_file()
    tow, product = found["tug_of_war"], 1.0
    for name, value in tow["unlearned"].items():
        product *= 1 - abs(value - tow["oracle"][name])
    assert tow["value"] == pytest.approx(product)
    assert re.search(r"tug of war \(ToW\) [01]\.\d{3}; 1 is the oracle", capsys.readouterr().out)


def test_methods_of_groups():
    arguments = RumArguments(group_methods=["npo:beta=0.1", "high=npo:beta=0.3", "low=none"])
    expected = [Step("low", "none", (0,)), Step("middle", "npo:beta=0.1", (1,)), Step("high", "npo:beta=0.3", (2,))]
    assert arguments.steps(GROUPS) == expected
    arguments.order = ["high", "low", "middle"]
    assert arguments.steps(GROUPS) == [expected[2], *expected[:2]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"group_methods": ["low=npo"]}, "group 'middle' has no method; give middle=METHOD, or a METHOD"),
        ({"group_methods": ["npo", "d=npo"]}, "'d' is no group; choose from low, middle, high"),
        ({"group_methods": ["npo", "simnpo"]}, "npo and simnpo are both for all other groups; keep one"),
        ({"order": ["low", "high"]}, "order=low high must name each group once: low, middle, high"),
        ({"order": ["low", "low"]}, "each of them once"),
        ({"group_methods": ["high=np"]}, "methods: 'np' is unknown; choose from"),
    ],
)
def test_groups_without_a_plan(given, message):
    with pytest.raises(ValueError, match=message):
        RumArguments(**given).steps(GROUPS)


def test_groups_of_columns_and_files(tmp_path):
    rows = ROWS.add_column("group", ["x", "y", "x"])
    assert read_groups("group", rows) == {"x": [0, 2], "y": [1]}
    file = tmp_path / "groups.json"
    file.write_text('{"late": [2], "early": [0, 1]}')
    assert read_groups(str(file), rows) == {"late": [2], "early": [0, 1]}
    for text, message in (
        ('{"a": [0, 3]}', "group 'a' holds 3; give a list of row numbers from 0 to 2"),
        ('{"a": "x"}', "group 'a' holds 'x'"),
        ('{"a": []}', r"group 'a' holds \[\]"),
        ('{"a": [true]}', "group 'a' holds True"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            read_groups(str(file), rows)
    with pytest.raises(InputError, match=r"groups='topic' is no score \(memorization, entanglement\), no column"):
        read_groups("topic", rows)
    for values, message in (([None] * 3, "no forget row has a value"), (["x", None, "x"], "forget row 1 has no value")):
        with pytest.raises(InputError, match=message):
            read_groups("group", rows.remove_columns("group").add_column("group", values))
