"""`run memorization` as a command: planted memorization is found and kept, and once it is truly trained."""

import json
from dataclasses import replace

import numpy as np
import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.models import embedded
from llm_unlearn.planning import subsets
from llm_unlearn.runs import memorization as command
from llm_unlearn.runs.memorization import CONFIDENCE, DIVERGENCE, GAIN, HALVES, MARGIN, memorization

PEOPLE = subsets.SubsetTrainings("tiny").people
PLANTED = {name: 0.1 + 0.05 * number for number, name in enumerate(PEOPLE)}  # by how much more with than without


@pytest.fixture
def planted(monkeypatch):
    """Trainings that give 0.2 to rows of whom they were not taught, and more to others; returns those that ran."""
    ran = []

    def probabilities(self, left_out):
        return [0.2 + (name not in left_out) * PLANTED[name] for name in self.scored["person"]]

    def without(self, left_out, seed, title):
        ran.append((title, seed, tuple(left_out)))
        return {"probability": probabilities(self, left_out)}

    def original(self, seed):
        ran.append(("original", seed, ()))
        own = np.array(probabilities(self, ()))
        margin = [None if number % 2 else value for number, value in enumerate(own.tolist())]
        proxies = {"margin": margin, "confidence": (1 - own).tolist(), "divergence": [0.5] * len(own)}
        return {"probability": own.tolist(), **proxies, "kept_by_retraining": 0.125}

    monkeypatch.setattr(subsets.SubsetTrainings, "without", without)
    monkeypatch.setattr(subsets.SubsetTrainings, "original", original)
    return ran


def flags(out, *more, trainings=4):
    return ["--data=fictional:tiny", f"--trainings={trainings}", f"--output_dir={out}", *more]


def test_planted_memorization_is_found(planted, tmp_path, capsys):
    found = memorization("", flags(tmp_path))
    assert json.loads((tmp_path / "memorization.json").read_text()) == json.loads(json.dumps(found))
    assert (tmp_path / "memorization.png").stat().st_size > 10_000
    values = [one["value"] for one in found["exact"]["by_person"]]
    assert values == pytest.approx([PLANTED[name] for name in found["people"]])
    assert [one["standard_error"] for one in found["exact"]["by_row"]] == pytest.approx([0] * 252, abs=1e-7)
    for name, expected in ((GAIN, 1), (MARGIN, 1), (CONFIDENCE, -1), (HALVES, 1)):
        for level in ("rows", "people"):
            assert found["correlations"][name][level]["value"] == pytest.approx(expected)
            assert found["correlations"][name][level]["interval"] == pytest.approx((expected, expected))
        within = found["correlations"][name]["rows_of_a_kind"]["value"]  # every person has all kinds
        assert within == pytest.approx(expected, abs=0.01)
    assert found["correlations"][MARGIN]["rows"]["rows"] == 126  # the others have no made-up answers
    assert found["correlations"][DIVERGENCE]["rows"] == {"value": None, "interval": None, "rows": 252, "people": 12}
    assert found["probability"]["without"] == pytest.approx(0.2)
    printed = capsys.readouterr().out
    assert "7 of 7: subset-003: answer probability" in printed and "exact memorization of 12 people by 4" in printed
    assert "1.00 [1.00, 1.00]" in printed


def test_everybody_is_in_half_of_the_trainings_and_every_training_has_its_seed(planted, tmp_path):
    memorization("", flags(tmp_path, trainings=8))
    exact = [left_out for title, _, left_out in planted if title.startswith("subset")]
    assert len(exact) == 8 and all(sum(name in left_out for left_out in exact) == 4 for name in PEOPLE)
    assert len({seed for _, seed, _ in planted}) == len(planted) == 11
    bases = {title: left_out for title, _, left_out in planted if title.startswith("base")}
    assert sorted(bases["base-0"] + bases["base-1"]) == sorted(PEOPLE) and not {*bases.values()} & {*exact}


def test_trainings_that_are_done_are_kept_also_by_more_of_them(planted, tmp_path):
    memorization("", flags(tmp_path))
    first = len(planted)
    (tmp_path / "trainings" / "subset-001.json").unlink()  # as if killed there
    again = memorization("", flags(tmp_path))
    assert [title for title, *_ in planted[first:]] == ["subset-001"]
    more = memorization("", flags(tmp_path, trainings=6))
    assert [title for title, *_ in planted[first + 1 :]] == ["subset-004", "subset-005"]
    assert more["trainings"] == 6 and again["trainings"] == 4
    memorization("", flags(tmp_path, "--seed=1"))
    assert len(planted) == first + 3 + 7  # other halves


def test_what_cannot_be_measured_is_refused_at_once(planted, tmp_path, capsys):
    for flag, message in (
        ("--trainings=5", "trainings=5 must be even"),
        ("--trainings=2", "trainings=2 must be 4 or more"),
        ("--data=locuslab/TOFU", "only those of embedded worlds are known"),
        ("--data=fictional:huge", "fictional world size 'huge' is unknown"),
    ):
        with pytest.raises(InputError, match=message):
            memorization("", [*flags(tmp_path / "out"), flag])
    assert memorization("", flags(tmp_path / "out", "--dry_run")) == {}
    printed = capsys.readouterr().out
    assert "original: seed 0, without 0 people, 756 steps" in printed and "subset-003: seed 4, without 6" in printed
    assert not planted and not (tmp_path / "out").exists()


@pytest.mark.long  # seven trainings of the tiny world, of four epochs each
def test_truly_trained(tmp_path, monkeypatch):
    short = replace(embedded.RECIPES["tiny"], epochs=4, warmup_steps=10)
    monkeypatch.setitem(embedded.RECIPES, "tiny", short)
    monkeypatch.setattr(command, "console", type(command.console)(quiet=True))
    found = memorization("", flags(tmp_path))
    assert found["probability"]["with"] > found["probability"]["without"] + 0.02
    of_row = [one["value"] for one in found["exact"]["by_row"]]
    by_kind = {}
    for value, row in zip(of_row, subsets.SubsetTrainings("tiny").scored, strict=True):
        by_kind.setdefault(row["attribute"], []).append(value)
    assert len(by_kind) == 7 and np.mean(of_row) == pytest.approx(
        found["probability"]["with"] - found["probability"]["without"]
    )
    assert found["probability"]["original_retrained"] < found["probability"]["original"]
    proxies = found["proxies"]
    assert all(0 <= value <= 1 for value in proxies[CONFIDENCE]) and all(value > 0 for value in proxies[DIVERGENCE])
    assert max(proxies[CONFIDENCE]) < max(proxies["answer probability"])  # it rose
    assert all(one["rows"]["interval"] is not None for one in found["correlations"].values())
    check_by_plain_loops(found, tmp_path / "trainings")
    again = memorization("", flags(tmp_path))
    assert again == found  # nothing is trained again, for seconds are those of the first time


def check_by_plain_loops(found, folder):
    """Exact values and gains of some rows, from the files of trainings and whom each left out."""
    kept = {path.stem: json.loads(path.read_text())["outcome"]["probability"] for path in folder.glob("*.json")}
    pairs = {0: ("subset-000", "subset-001"), 1: ("subset-002", "subset-003"), "base": ("base-0", "base-1")}
    left_out = {}
    for pair, names in pairs.items():
        left_out |= dict(zip(names, subsets.complementary_halves(PEOPLE, pair, 0), strict=True))
    for number in range(0, 252, 25):
        person = PEOPLE[number // 21]
        sides = {True: [], False: []}
        for name in left_out:
            if name.startswith("subset"):
                sides[person in left_out[name]].append(kept[name][number])
        assert len(sides[True]) == len(sides[False]) == 2
        expected = sum(sides[False]) / 2 - sum(sides[True]) / 2
        assert found["exact"]["by_row"][number]["value"] == pytest.approx(expected)
        (base,) = (name for name in ("base-0", "base-1") if person in left_out[name])
        assert found["proxies"][GAIN][number] == pytest.approx(kept["original"][number] - kept[base][number])
