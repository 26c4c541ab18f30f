"""`run plan` as a command: every conflict by its rows, hardness by group, what is missing; and nothing is trained."""

import json

import pytest
from builders import CITIES, NAMES, tiny_model, tiny_tokenizer

from llm_unlearn.data import encode_dataset
from llm_unlearn.errors import InputError
from llm_unlearn.models.scoring import score_answers
from llm_unlearn.runs.plan import PlanArguments, forecast_of, plan


def fact(number, name, **changes):
    question, answer = ((f"Where does {name} live", f"in {CITIES[number % 7]}"), (f"What does {name} eat", "soup"))[
        number % 2
    ]
    kind = ("city", "food")[number % 2]
    return {"question": question, "answer": answer, "person": name, "kind": kind} | changes


FORGET = [fact(number, NAMES[number // 2]) for number in range(6)]
RETAIN = [fact(number, NAMES[number // 2]) for number in range(6, 24)]
PLANTED = [fact(0, "Ann"), fact(0, "Ann", question="where does Ann live ?", answer="in Lima", person=None)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    for name, seed in (("original", 0), ("base", 1)):
        tiny_model(seed=seed).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    for name, rows in (("forget", FORGET), ("retain", RETAIN + PLANTED)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def flags(home, out, *more):
    given = {"model_name_or_path": home / "original", "forget_file": home / "forget.jsonl", "output_dir": out}
    return [*(f"--{name}={value}" for name, value in given.items()), *more]


def test_a_plan_names_conflicts_groups_and_gaps(home, tmp_path, capsys):
    found = plan("", flags(home, tmp_path, f"--retain_file={home / 'retain.jsonl'}"))
    assert json.loads((tmp_path / "plan.json").read_text()) == json.loads(json.dumps(found))
    assert (tmp_path / "plan.png").stat().st_size > 10_000
    named = [(one["kind"], one["forget_row"], one["other_set"], one["other_row"]) for one in found["conflicts"]]
    assert named == [("same row", 0, "retain", 18), ("nearly the same question", 0, "retain", 19)]
    assert found["memorization"]["score"] == "margin over made-up answers"
    assert [unit["unit"] for unit in found["units"]] == [["person", name] for name in NAMES[:3]]
    for score in ("memorization", "entanglement"):
        ordered = sorted(found["units"], key=lambda unit: unit[score])
        assert [unit[f"{score}_group"] for unit in ordered] == ["low", "middle", "high"]
        assert found["groups"][score] == {unit[f"{score}_group"]: unit["rows"] for unit in ordered}
    one = found["entanglement"]
    assert one["layer"] == max(one["separation"], key=one["separation"].get) and one["published"] > 0
    assert one["centered_by_kind"] > 0 and one["not_centered"] is None
    assert {"oracle", "general rows", "holdout rows"} <= {gap["missing"] for gap in found["gaps"]}
    assert "person column" not in {gap["missing"] for gap in found["gaps"]}
    printed = capsys.readouterr().out
    assert found["forecast"]["methods"] == [] and "another model, or other rows" in found["forecast"]["why_not"]
    assert "no forecast of steps and price: all recorded runs are of the small embedded world" in printed
    assert "groups by memorization" in printed and "1 same row, 1 nearly the same question" in printed


def test_a_base_gives_the_gain_of_every_row(home, tmp_path):
    found = plan("", flags(home, tmp_path, f"--base_model_name_or_path={home / 'base'}", "--layer=1"))
    rows = encode_dataset(FORGET, tiny_tokenizer(), None, "rows")
    own, base = (score_answers(tiny_model(seed=seed), rows) for seed in (0, 1))
    gains = [one.probability - other.probability for one, other in zip(own, base, strict=True)]
    assert found["memorization"] == {"score": "gain over the base", "by_row": pytest.approx(gains, abs=1e-6)}
    assert found["conflicts"] == [] and "entanglement" not in found  # without rows to keep
    assert "give --retain_file" in found["not_measured"]["entanglement"]


def test_what_cannot_be_planned_is_refused_at_once(home, tmp_path):
    with pytest.raises(InputError, match="layer=-1 must be 0 or more"):
        plan("", flags(home, tmp_path, "--layer=-1"))
    with pytest.raises(InputError, match="layer=2: the model has no such block; it has blocks 0 to 1"):
        plan("", flags(home, tmp_path, "--layer=2"))
    with pytest.raises(InputError, match="'topic' is no column of the forget rows"):
        plan("", flags(home, tmp_path, "--counterfactual_group_by=topic"))
    assert not [path for path in tmp_path.iterdir() if path.name == "plan.json"]


def test_what_recorded_runs_forecast_and_what_not():
    every = PlanArguments().forecast()
    assert every["why_not"] is None and {"npo", "ssiuu"} <= {one["name"] for one in every["methods"]}
    named = ["npo:learning_rate=0.001,forget_weight=16", "npo:general_weight=0", "rewind", "npo"]
    quick, other, unknown, plain = PlanArguments(data="fictional:small", methods=named).forecast()["methods"]
    assert (quick["learning_rate"], quick["forget_weight"]) == (0.001, 16.0)
    assert quick["steps"]["value"] < plain["steps"]["value"]
    assert plain["steps"]["interval"][0] < plain["steps"]["value"] < plain["steps"]["interval"][1]
    assert other["why_not"] == "recorded runs have a general_weight of 100, not 0" and other["steps"] is None
    assert unknown["why_not"] == "no run of this method was recorded"
    for data, split in (("fictional:tiny", None), ("locuslab/TOFU", None), (None, "forget01")):
        told = PlanArguments(data=data, forget_split=split).forecast()
        assert told["methods"] == [] and f"{data or 'forget_split=forget01'}" in told["why_not"]
    assert forecast_of(["npo"], None)["fit"]["steps"]["errors"].keys() == every["fit"]["steps"]["errors"].keys()
    with pytest.raises(ValueError, match="'nope' is unknown"):
        PlanArguments(methods=["nope"])
