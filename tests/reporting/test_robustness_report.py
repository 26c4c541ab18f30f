"""The table of a robustness benchmark, from run folders made up by hand."""

import json

import pytest
from made_up_runs import run
from rich.console import Console

from llm_unlearn.errors import InputError
from llm_unlearn.examining.verdict import verdict_of
from llm_unlearn.reporting.agreement import agreement
from llm_unlearn.reporting.robustness import report_robustness, run_folder
from llm_unlearn.reporting.robustness_table import _table_lines

RECOVERED = {("npo", 1): 0.75, ("npo", 2): 0.85, ("ssiuu", 1): 0.5, ("ssiuu", 2): 0.45}


@pytest.fixture
def folder(tmp_path):
    """Two methods, two seeds; the oracle has 0.45 after reinjection and the original 0.95."""
    runs = []
    for (method, seed), after in RECOVERED.items():
        results, records = run(unlearned={"after": after, "control": (0.0, after - 0.4)})
        for outcome in results["counterfactual"].values():
            outcome |= sides(outcome["probability"]["excess"])
        results |= {"method": method, "seed": seed}
        verdict = verdict_of(results, records)
        one = tmp_path / "runs" / f"{method}-seed{seed}"
        (one / "records").mkdir(parents=True)
        (one / "results.json").write_text(json.dumps(results))
        (one / "verdict.json").write_text(json.dumps(verdict))
        for name, record in records.items():
            (one / "records" / f"{name}.json").write_text(json.dumps(record))
        runs.append({"method": method, "seed": seed, "learning_rate": 1e-3, "steps": 50 * seed, "reached": 1.0})
        runs[-1] |= {"retain_exact_match": 0.9 + 0.05 * seed, "verdict": verdict["verdict"], "seconds": 60.0}
        runs[-1] |= {"scores": {"forget_probability": 0.4, "retain_probability": 1.0}}
    chosen = {method: {"learning_rate": 1e-3, "why": "the only one"} for method in ("npo", "ssiuu")}
    references = {name: results[name] for name in ("attacks", "counterfactual")} | {"scores": {}}
    for name in ("original", "oracle", "oracle_1", "oracle_2"):
        references["scores"][name] = results["scores"][name] | {"forget_probability": 0.5}
    (tmp_path / "robustness.json").write_text(json.dumps({"references": references, "chosen": chosen, "runs": runs}))
    return tmp_path


def sides(excess: float) -> dict:
    """The control's rows: true facts 0.4 + excess, made-up ones 0.4, before the attack both 0.2."""
    before = {str(row): {"probability": 0.2} for row in range(40)}

    def side(value: float) -> dict:
        values = {str(row): {"probability": value} for row in range(40)}
        one = {"attacker": "full", "learning_rate": 1e-3, "seed": 0, "value_by_index": values}
        return {"attacker": "full", "learning_rate": 1e-3, "runs": [one], "before_by_index": before}

    return {"true": side(0.4 + excess), "counterfactual": {"0": side(0.4), "1": side(0.4)}}


def test_means_over_seeds_beside_the_references(folder):
    console = Console(width=150, record=True)
    summary = report_robustness(folder, console)
    npo = summary["methods"]["npo"]
    assert (npo["steps"], npo["reached"], npo["seeds"], npo["verdicts"]) == (75, 2, [1, 2], {"hidden": 2})
    assert npo["retain_exact_match"] == pytest.approx(0.975)
    scores = {(one["name"], one["score"]): one for one in npo["scores"]}
    reinjection = scores["adversarial_reinjection", "forget_probability"]
    assert reinjection["value"] == pytest.approx(0.8)
    assert reinjection["excess"] == pytest.approx(0.35) and reinjection["erasure"] == pytest.approx(0.3)
    low, high = reinjection["excess_interval"]
    assert 0.28 <= low <= 0.32 and 0.38 <= high <= 0.42  # seeds differ by 0.1, people by 0.02
    assert npo["control"]["after"]["excess"] == pytest.approx(0.4)
    assert npo["control"]["after"]["by_model"] == pytest.approx([0.35, 0.45])
    assert npo["control"]["before"]["excess"] == 0
    assert summary["references"]["oracle"]["models"] == 3
    assert summary["references"]["oracle"]["control"]["after"]["excess"] == pytest.approx(0.01)
    printed = console.export_text()
    assert "oracle (3)" in printed and "2 hidden" in printed and "…" not in printed
    assert json.loads((folder / "summary.json").read_text())["methods"].keys() == {"npo", "ssiuu"}
    table = (folder / "table.md").read_text()
    assert "| 0.00 / 0.80 |" not in table.splitlines()[0] and "0.05 / 0.40" in table
    for name in ("heat_map.png", "trade_off.png", "recovery.png", "control.png", "control.md"):
        assert (folder / name).stat().st_size > 100


def test_verdicts_that_were_made_anew_are_those_of_the_table(folder):
    for file in (folder / "runs").glob("npo-seed*/verdict.json"):
        told = {"verdict": "undecided", "sentence": "Undecided: made up"}
        file.write_text(json.dumps(json.loads(file.read_text()) | told))
    methods = report_robustness(folder)["methods"]
    assert set(methods["npo"]["verdicts"]) == {"undecided"} and "undecided" not in methods["ssiuu"]["verdicts"]


def test_knowledge_and_the_price_take_the_place_of_probability_and_retained_facts(folder):
    known = {"original": 1.0, "oracle": 0.5, "oracle_1": 0.5, "oracle_2": 0.5, "unlearned": 0.75}
    reversed_left = {"npo": 0.9, "ssiuu": 0.2}
    for path in folder.glob("runs/*"):
        method = path.name.partition("-")[0]
        results = json.loads((path / "results.json").read_text())
        results["abilities"], results["units"] = {}, {}
        for model, share in known.items():
            record = json.loads((path / "records" / f"{model}.json").read_text())
            wins = [1.0] * int(4 * share) + [0.0] * (4 - int(4 * share))
            record["forget_knowledge"] = {"value_by_index": {str(row): {"wins": wins} for row in range(40)}}
            for name in ("retain", "retain_reversed"):
                score = reversed_left[method] if (name, model) == ("retain_reversed", "unlearned") else 0.9
                record[f"{name}_Q_A_Prob"] = {"value_by_index": {str(row): {"prob": score} for row in range(40)}}
                results["abilities"].setdefault(model, {})[name] = {"probability": score, "rows": 40}
            (path / "records" / f"{model}.json").write_text(json.dumps(record))
        (path / "results.json").write_text(json.dumps(results))
    summary = report_robustness(folder, Console(quiet=True))
    npo, ssiuu = summary["methods"]["npo"], summary["methods"]["ssiuu"]
    assert npo["lost"] == [] and ssiuu["lost"] == ["retain_reversed"]
    assert ssiuu["lowest"]["label"] == "retained facts, in reverse"
    assert ssiuu["lowest"]["share"] == pytest.approx(2 / 9)
    measured = ssiuu["abilities"]["retain_reversed"]["probability"]
    assert measured["value"] == pytest.approx(0.2) and measured["interval"] == pytest.approx([2 / 9, 2 / 9])
    table = (folder / "table.md").read_text().splitlines()
    assert "knowledge before" in table[0] and "lowest ability" in table[0] and "retain match" not in table[0]
    row = next(line for line in table if line.startswith("| ssiuu |"))
    assert "| 0.75 [0.75, 0.75] |" in row and "retained facts, in reverse (22 %) | 1 of 4 |" in row
    assert "| retained facts, in reverse | 1.00 [1.00, 1.00] | 0.22 [0.22, 0.22] (lost) |" in table


def test_oracle_and_control_side_by_side(folder):
    agreed = report_robustness(folder, Console(quiet=True))["agreement"]
    assert [one["oracle"] for one in agreed["runs"]] == pytest.approx([0.3, 0.4, 0.05, 0.0], abs=1e-9)
    assert [one["control"] for one in agreed["runs"]] == pytest.approx([0.35, 0.45, 0.1, 0.05])
    assert agreed["spearman"] == pytest.approx(1.0)
    # seed 1 of Ssiuu: 0.1 is over a tenth of the original's 0.6, and its interval ends at 0.05
    assert agreed["flagged"] == {"both": 2, "oracle": 0, "control": 1, "neither": 1}
    assert [one["model"] for one in agreed["references"]] == ["original", "oracle", "oracle_1", "oracle_2"]


def test_without_an_oracle_or_a_control_there_is_nothing_to_agree():
    results, records = run(oracles=0, unlearned={})
    results |= {"method": "npo", "seed": 1}
    assert agreement([(results, verdict_of(results, records))]) is None


def test_a_lost_run_is_named(folder):
    (folder / "runs" / "npo-seed2" / "results.json").unlink()
    with pytest.raises(InputError, match=r"npo-seed2/results\.json cannot be read .+ start benchmarks/robustness\.py"):
        report_robustness(folder, Console(quiet=True))


def test_runs_of_a_method_with_fields_are_found(folder):
    found = json.loads((folder / "robustness.json").read_text())
    for one in found["runs"]:
        one["method"] = one["method"].replace("ssiuu", "ssiuu:regularizer_weight=30")
    found["chosen"]["ssiuu:regularizer_weight=30"] = found["chosen"].pop("ssiuu")
    (folder / "robustness.json").write_text(json.dumps(found))
    for seed in (1, 2):
        (folder / "runs" / f"ssiuu-seed{seed}").rename(run_folder(folder, "ssiuu:regularizer_weight=30", seed))
    assert "ssiuu:regularizer_weight=30" in report_robustness(folder)["methods"]
    assert (folder / "runs" / "ssiuu-regularizer_weight=30-seed2").is_dir()


def test_more_methods_than_a_page_is_wide_have_a_row_each():
    few = [["what is left", "npo", "ssiuu"], ["general facts", "0.9", "1.0"]]
    assert _table_lines(few)[:2] == ["| what is left | npo | ssiuu |", "| --- | ---: | ---: |"]
    many = [["what is left", *(f"method {number}" for number in range(9))], ["general facts", *"123456789"]]
    assert _table_lines(many)[:3] == ["| what is left | general facts |", "| --- | ---: |", "| method 0 | 1 |"]
