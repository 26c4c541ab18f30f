"""Who is hard to forget? Runs in worlds whose people differ in one thing, by level.

A command of the repository alone: python benchmarks/_contrasts.py RUNS
RUNS holds output folders of recipes with --data fictional:small-FACTOR --forget_split forget20, named FACTOR-SEED.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

from llm_unlearn.data.fictional import build_world
from llm_unlearn.data.fictional_contrasts import FACTORS, LEVELS

Rows = dict[str, dict]  # number of a row, as text -> its values


def by_level(rows: Rows, level_of: Callable[[int], str], value: Callable[[dict], float]) -> dict[str, float]:
    """Level -> mean of a value over its rows that have one."""
    found = defaultdict(list)
    for number, row in rows.items():
        if (one := value(row)) is not None:
            found[level_of(int(number))].append(one)
    return {level: fmean(values) for level, values in found.items()}


def wins(row: dict) -> float | None:
    """Share of made-up answers that the true one is preferred to; None: there are none."""
    return fmean(row["wins"]) if row["wins"] else None


def measured(folder: Path, factor: str) -> dict[str, dict[str, dict[str, float]]]:
    """Measure -> model -> level -> mean."""
    rows = build_world(f"small-{factor}").split("forget20")
    results = json.loads((folder / "results.json").read_text())
    attacked, reversed_rows = results["attacks"]["adversarial_reinjection"], results["style_rows"]["reversed"]
    found = defaultdict(dict)
    for model in ("original", "oracle", "unlearned"):
        records = json.loads((folder / "records" / f"{model}.json").read_text())

        def records_by_level(name, value, level_of=lambda row: rows[row]["level"], records=records):
            return by_level(records[name]["value_by_index"], level_of, value)

        found["exact match"][model] = records_by_level("forget_exact_match", lambda row: row["score"])
        found["probability"][model] = records_by_level("forget_Q_A_Prob", lambda row: row["prob"])
        found["knowledge as asked"][model] = records_by_level("forget_knowledge", wins)
        found["in reverse"][model] = records_by_level(
            "forget_reversed_knowledge", wins, lambda query: rows[reversed_rows[query]]["level"]
        )
        runs = [
            by_level(run["value_by_index"], lambda row: rows[row]["level"], wins) for run in attacked[model]["runs"]
        ]
        found["after reinjection"][model] = {level: fmean(run[level] for run in runs) for level in LEVELS}
    return found


def cell(values: Iterable[float]) -> str:
    """Mean over runs, and from the lowest to the highest."""
    values = [*values]
    return f"{fmean(values):.2f} ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else f"{values[0]:.2f}"


def main(runs: str) -> None:
    for factor in FACTORS:
        folders = sorted(path for path in Path(runs).glob(f"{factor}-*") if (path / "results.json").is_file())
        if not folders:
            continue
        found = [measured(folder, factor) for folder in folders]
        steps = [json.loads((folder / "results.json").read_text())["training"]["steps"] for folder in folders]
        print(f"\n{factor}: {', '.join(folder.name for folder in folders)}; {min(steps)} to {max(steps)} steps\n")
        print("| | " + " | ".join(f"{level}: unlearned | oracle" for level in LEVELS) + " |")
        print("|---" * (1 + 2 * len(LEVELS)) + "|")
        for measure in found[0]:
            cells = [
                cell(one[measure][model][level] for one in found)
                for level in LEVELS
                for model in ("unlearned", "oracle")
            ]
            print(f"| {measure} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1])
