"""Fit the forecast of `llm-unlearn run plan` on the runs that docs/ records, and write it, and the best of them, into
the package.

A command of the repository alone: python benchmarks/_from_leaderboard.py
"""

import json
from pathlib import Path

from llm_unlearn.files.whole import write_whole
from llm_unlearn.planning.forecast import FITTED, WEIGHTS, entry_of, fitted, trials_of
from llm_unlearn.reporting.leaderboard import read_entries
from llm_unlearn.reporting.recorded import RECORDED, winners

ROOT = Path(__file__).parents[1]
TRIALS = "docs/results/methods/tune.csv"
ENTRIES = "docs/leaderboard"


def fit() -> dict:
    """Of all trials and of those leaderboard entries that were run like them; rounded, to be the same everywhere."""
    trials = trials_of((ROOT / TRIALS).read_text(encoding="utf-8"))
    entries = [entry_of(json.loads(path.read_text())) for path in sorted((ROOT / ENTRIES).glob("*.json"))]
    alike = [entry for entry in entries if entry is not None]
    sources = {TRIALS: len(trials), ENTRIES: len(alike), "left out of the latter": len(entries) - len(alike)}
    found = {"sources": sources, "weights": WEIGHTS} | fitted([*trials, *alike])
    return json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 6))


if __name__ == "__main__":
    write_whole(FITTED, [json.dumps(fit(), indent=1) + "\n"])
    write_whole(RECORDED, [json.dumps(winners(read_entries(ROOT / ENTRIES)), indent=1) + "\n"])
    print(f"written: {FITTED}, {RECORDED}")
