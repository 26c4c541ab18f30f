"""Results and records of runs, made up by hand: eight people with five facts each."""

import copy

PEOPLE, FACTS = 8, 5
ROWS = PEOPLE * FACTS


def spread(mean: float) -> list[float]:
    """A value per row around a mean; people differ a little."""
    return [mean + 0.02 * ((row // FACTS) % 2 - 0.5) for row in range(ROWS)]


def by_index(values, exact: float = 0.0, rows=None) -> dict:
    rows = range(ROWS) if rows is None else rows
    return {str(row): {"probability": values[row], "exact_match": exact} for row in rows}


def reinjection(mean: float) -> dict:
    """Two attack seeds, which score other rows."""
    runs = []
    for seed in (0, 1):
        scored = [row for row in range(ROWS) if row % 2 == seed]
        runs.append(
            {
                "attacker": "full",
                "learning_rate": 1e-3,
                "seed": seed,
                "value_by_index": by_index(spread(mean), 0, scored),
            }
        )
    curve = [{"step": step, "forget_probability": mean, "forget_exact_match": 0.0} for step in (0, 60)]
    weaker = copy.deepcopy(runs[0]) | {"learning_rate": 1e-4, "value_by_index": by_index(spread(0.0))}
    return {"attacker": "full", "learning_rate": 1e-3, "curve": curve, "runs": [weaker, *runs]}


def record(probability: float, exact: float) -> dict:
    rows = {str(row): value for row, value in enumerate(spread(probability))}
    return {
        "forget_Q_A_Prob": {"value_by_index": {row: {"prob": value} for row, value in rows.items()}},
        "forget_exact_match": {"value_by_index": {row: {"score": exact} for row in rows}},
    }


def excess(value: float, width: float = 0.05) -> dict:
    return {"excess": value, "interval": [value - width, value + width], "p_value": 0.5}


def control(before: float, after: float) -> dict:
    return {"probability": excess(after), "excess_before": {"probability": excess(before)}}


ORIGINAL = {"before": 0.95, "exact": 1.0, "after": 0.95, "retain": 1.0, "control": (0.6, 0.6)}
ORACLE = {"before": 0.40, "exact": 0.05, "after": 0.45, "retain": 1.0, "control": (0.0, 0.01)}


def run(oracles: int = 3, **models: dict) -> tuple[dict, dict]:
    """Results and records of a run; a model is given by what differs from the oracle."""
    measured = {"original": ORIGINAL}
    measured |= {"oracle" if number == 0 else f"oracle_{number}": ORACLE for number in range(oracles)}
    measured |= {name: ORACLE | changes for name, changes in models.items()}
    results = {
        "scores": {
            name: {"retain_probability": one["retain"], "retain_exact_match": one["retain"]}
            for name, one in measured.items()
        },
        "attacks": {"adversarial_reinjection": {name: reinjection(one["after"]) for name, one in measured.items()}},
        "counterfactual": {name: control(*one["control"]) for name, one in measured.items()},
        "forget_groups": [f"person {row // FACTS}" for row in range(ROWS)],
    }
    return results, {name: record(one["before"], one["exact"]) for name, one in measured.items()}
