"""Who is hard to forget? Runs in worlds whose people differ in one thing, by level.

A command of the repository alone: python benchmarks/_contrasts.py RUNS PLANS
RUNS holds output folders of recipes with --data fictional:small-FACTOR --forget_split forget20, named FACTOR-SEED;
PLANS those of `run plan` with the same data, named FACTOR.
"""

import json
import sys
from pathlib import Path
from statistics import fmean

import numpy as np

from llm_unlearn.data.fictional import build_world
from llm_unlearn.data.fictional_contrasts import FACTORS, LEVELS
from llm_unlearn.metrics.intervals import percentile_interval, resampled_difference
from llm_unlearn.metrics.rank_correlation import rank_correlation

Values = dict[int, float]  # number of a forget row -> its value
SCORES = {"entanglement": "entanglement", "memorization": "margin over made-up answers"}
MEASURES = ("exact match", "probability", "knowledge as asked", "in reverse", "after reinjection")


def measured(folder: Path) -> dict[str, dict[str, Values]]:
    """Measure -> model -> values of the forget rows; a reversed question counts as the row that it was made of."""
    results = json.loads((folder / "results.json").read_text())
    attacked, reversed_rows = results["attacks"]["adversarial_reinjection"], results["style_rows"]["reversed"]
    found = {measure: {} for measure in MEASURES}
    for model in ("original", "oracle", "unlearned"):
        records = json.loads((folder / "records" / f"{model}.json").read_text())

        def recorded(name, value, records=records):
            return {int(number): value(row) for number, row in records[name]["value_by_index"].items()}

        found["exact match"][model] = recorded("forget_exact_match", lambda row: row["score"])
        found["probability"][model] = recorded("forget_Q_A_Prob", lambda row: row["prob"])
        found["knowledge as asked"][model] = recorded("forget_knowledge", wins)
        asked = recorded("forget_reversed_knowledge", wins)
        found["in reverse"][model] = {reversed_rows[query]: value for query, value in asked.items()}
        runs = [run["value_by_index"] for run in attacked[model]["runs"]]
        found["after reinjection"][model] = {
            int(number): fmean(wins(run[number]) for run in runs if number in run) for run in runs for number in run
        }
    return found


def wins(row: dict) -> float:
    """Share of made-up answers that the true one is preferred to; NaN: there are none."""
    return fmean(row["wins"]) if row["wins"] else float("nan")


def at_level(runs: list[Values], rows: list[dict], level: str) -> tuple[np.ndarray, list[int]]:
    """(runs, 1, rows of a level), and the number of each row's person."""
    numbers = [number for number in sorted(runs[0]) if rows[number]["level"] == level]
    people = sorted({rows[number]["person"] for number in numbers})
    values = np.array([[[run[number] for number in numbers]] for run in runs])
    return values, [people.index(rows[number]["person"]) for number in numbers]


def table(folders: list[Path], factor: str) -> list[str]:
    """Lines of Markdown: each measure by level with the oracle's in parentheses, and what tells the highest level from
    the lowest.

    That is the difference of their excess over the oracle, with its 95 % interval over people (of each level drawn
    anew, and independently) and unlearning seeds.
    """
    rows = build_world(f"small-{factor}").split("forget20")
    runs, lines = [measured(folder) for folder in folders], []
    for measure in MEASURES:
        means, excess = {}, {}
        for seed, level in enumerate(LEVELS):
            sides = []
            for model in ("unlearned", "oracle"):
                values, people = at_level([run[measure][model] for run in runs], rows, level)
                means[model, level] = float(np.nanmean(values))
                sides.append(values if model == "unlearned" else values[:1])  # one oracle, whatever the run
            excess[level] = resampled_difference(*sides, people, seed=seed)
        cells = [f"{means['unlearned', level]:.2f} ({means['oracle', level]:.2f})" for level in LEVELS]
        (low, lows), (high, highs) = excess["low"], excess["high"]
        drawn = min(len(lows), len(highs))
        interval = percentile_interval(highs[:drawn] - lows[:drawn], units=max(people) + 1)
        told = f"{high - low:+.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
        lines.append(f"| {factor} | {measure} | {' | '.join(cells)} | {told} |")
    return lines


def foretold(plan: Path, folders: list[Path], factor: str) -> list[str]:
    """Lines of Markdown: each score of a plan by level, and how it ranks the forgotten people by three things.

    These are their level, what is known of them as asked, and what is after reinjection: Spearman's rank correlation
    with its 95 % interval over people.
    """
    units = json.loads((plan / "plan.json").read_text())["units"]
    rows, runs = build_world(f"small-{factor}").split("forget20"), [measured(folder) for folder in folders]
    levels, lines = [LEVELS.index(rows[unit["rows"][0]]["level"]) for unit in units], []

    def left(measure):
        values = [run[measure]["unlearned"] for run in runs]
        return [np.nanmean([one.get(row, np.nan) for one in values for row in unit["rows"]]) for unit in units]

    for score, title in SCORES.items():
        scores = [unit[score] for unit in units]
        means = [fmean(value for value, own in zip(scores, levels, strict=True) if own == level) for level in range(3)]
        cells = [f"{mean:.2f}" for mean in means]
        for other in (levels, left("knowledge as asked"), left("after reinjection")):
            found = rank_correlation(scores, other, [*range(len(units))])
            cells.append(f"{found.value:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]")
        lines.append(f"| {factor} | {title} | {' | '.join(cells)} |")
    return lines


def main(runs: str, plans: str) -> None:
    print(f"| people differ in | | {' | '.join(LEVELS)} | excess, high less low [95 %] |\n{'|---' * 6}|")
    found = {}
    for factor in FACTORS:
        folders = sorted(path for path in Path(runs).glob(f"{factor}-*") if (path / "results.json").is_file())
        if not folders:
            continue
        found[factor] = folders
        print("\n".join(table(folders, factor)))
    heads = " | ".join([*LEVELS, "with the level", "with knowledge as asked", "after reinjection"])
    print(f"\n| people differ in | score | {heads} |\n{'|---' * 8}|")
    for factor, folders in found.items():
        print("\n".join(foretold(Path(plans) / factor, folders, factor)))


if __name__ == "__main__":
    main(*sys.argv[1:])
