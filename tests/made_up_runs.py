"""Results and records of runs, made up by hand: eight people with five facts each, and abilities of twenty rows."""

import copy
import json
from pathlib import Path

from llm_unlearn.examining.results import write_evidence, write_verdict

PEOPLE, FACTS = 8, 5
ROWS = PEOPLE * FACTS
ABILITY_ROWS = 20


def spread(mean: float) -> list[float]:
    """A value per row around a mean; people differ a little."""
    return [mean + 0.02 * ((row // FACTS) % 2 - 0.5) for row in range(ROWS)]


def wins(mean: float, row: int) -> list[float]:
    """Over five made-up answers; people differ a little."""
    return [mean + 0.04 * ((row // FACTS) % 2 - 0.5)] * 5


def by_index(values, exact: float = 0.0, rows=None, known: float | None = None) -> dict:
    rows = range(ROWS) if rows is None else rows
    beside = {row: {} if known is None else {"wins": wins(known, row)} for row in rows}
    return {str(row): {"probability": values[row], "exact_match": exact} | beside[row] for row in rows}


def reinjection(mean: float, known: float | None = None) -> dict:
    """Two attack seeds, which score other rows."""
    runs = []
    for seed in (0, 1):
        scored = [row for row in range(ROWS) if row % 2 == seed]
        runs.append(
            {
                "attacker": "full",
                "learning_rate": 1e-3,
                "seed": seed,
                "value_by_index": by_index(spread(mean), 0, scored, known),
            }
        )
    curve = [{"step": step, "forget_probability": mean, "forget_exact_match": 0.0} for step in (0, 60)]
    weaker = copy.deepcopy(runs[0]) | {"learning_rate": 1e-4, "value_by_index": by_index(spread(0.01))}
    return {"attacker": "full", "learning_rate": 1e-3, "curve": curve, "runs": [weaker, *runs]}


def retain_tuning(mean: float, known: float | None = None) -> dict:
    """One attack seed, which scores all rows, ten times as long as reinjection."""
    scored = by_index(spread(mean), 0, None, known)
    run = {"attacker": "full", "learning_rate": 1e-3, "seed": 0, "value_by_index": scored}
    curve = [{"step": step, "forget_probability": mean, "forget_exact_match": 0.0} for step in (0, 600)]
    return {"attacker": "full", "learning_rate": 1e-3, "curve": curve, "runs": [run]}


def answer_records(name: str, probabilities: list[float], exact: list[float]) -> dict:
    return {
        f"{name}_Q_A_Prob": {"value_by_index": {str(i): {"prob": value} for i, value in enumerate(probabilities)}},
        f"{name}_exact_match": {"value_by_index": {str(i): {"score": value} for i, value in enumerate(exact)}},
    }


def fluency(well: float, rows: int = ROWS) -> dict:
    """Answers of which a share has -1 nat per token, the others -9."""
    values = [-1.0 if row < well * rows else -9.0 for row in range(rows)]
    return {"value_by_index": {str(row): {"avg_logp": value, "repeats": False} for row, value in enumerate(values)}}


def records_of(one: dict) -> dict:
    found = answer_records("forget", spread(one["before"]), [one["exact"]] * ROWS)
    if one["knowledge"] is not None:
        by_row = {str(row): {"wins": wins(one["knowledge"], row)} for row in range(ROWS)}
        found["forget_knowledge"] = {"value_by_index": by_row}
    for name in ("retain", "general", "instructions"):
        found |= answer_records(name, [one[name]] * ABILITY_ROWS, [one[name]] * ABILITY_ROWS)
    return found | {"forget_fluency": fluency(one["fluent"])}


def excess(value: float, width: float = 0.05) -> dict:
    return {"excess": value, "interval": [value - width, value + width], "p_value": 0.5}


def control(before: float, after: float) -> dict:
    return {"probability": excess(after), "excess_before": {"probability": excess(before)}}


ABLE = {"retain": 1.0, "general": 1.0, "instructions": 1.0, "fluent": 1.0}
# What retain tuning finds: nothing, but of the original.
ABLE |= {"tuned": 0.45, "tuned_known": 0.5}
ORIGINAL = {"before": 0.95, "exact": 1.0, "after": 0.95, "control": (0.6, 0.6), "knowledge": None, "known": None} | ABLE
ORIGINAL |= {"tuned": 0.95, "tuned_known": 0.98}
ORACLE = {"before": 0.40, "exact": 0.05, "after": 0.45, "control": (0.0, 0.01), "knowledge": None, "known": None} | ABLE
# What a run measures where rows say which answers are of a kind: `knowledge` before, `known` after reinjection.
KNOWING, IGNORANT = {"knowledge": 0.98, "known": 0.98}, {"knowledge": 0.5, "known": 0.5}


def run(oracles: int = 3, kinds: bool = False, **models: dict) -> tuple[dict, dict]:
    """Results and records of a run; a model is given by what differs from the oracle."""
    known = (KNOWING, IGNORANT) if kinds else ({}, {})
    measured = {"original": ORIGINAL | known[0]}
    measured |= {"oracle" if k == 0 else f"oracle_{k}": ORACLE | known[1] for k in range(oracles)}
    measured |= {name: ORACLE | known[1] | changes for name, changes in models.items()}
    results = {
        "scores": {
            name: {"retain_probability": one["retain"], "retain_exact_match": one["retain"]}
            for name, one in measured.items()
        },
        "abilities": {name: {} for name in measured},
        "kinds": "attribute" if kinds else None,
        "units": {name: list(range(ABILITY_ROWS)) for name in ("retain", "general", "instructions")},
        "style_rows": {},
        "attacks": {
            "adversarial_reinjection": {
                name: reinjection(one["after"], one["known"]) for name, one in measured.items()
            },
            "retain_relearning": {
                name: retain_tuning(one["tuned"], one["known"] and one["tuned_known"]) for name, one in measured.items()
            },
        },
        "counterfactual": {name: control(*one["control"]) for name, one in measured.items()},
        "forget_groups": [f"person {row // FACTS}" for row in range(ROWS)],
    }
    results["units"]["forget"] = [row // FACTS for row in range(ROWS)]
    return results, {name: records_of(one) for name, one in measured.items()}


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=1))


def reseal(folder: Path) -> None:
    """Give the files of a run, which a test has changed, the digests that they would have had."""
    results = json.loads((folder / "results.json").read_text())
    results = {name: value for name, value in results.items() if name not in ("sha256", "records")}
    records = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))}
    write_evidence(folder, results, records)
    if (folder / "verdict.json").exists():
        verdict = json.loads((folder / "verdict.json").read_text())
        write_verdict(folder, {name: value for name, value in verdict.items() if name != "sha256"})
