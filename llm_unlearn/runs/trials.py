"""A trial of a search from its runs, and which trial of a method is the best: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from llm_unlearn.examining.left import what_is_left
from llm_unlearn.examining.price import lowest_of_means
from llm_unlearn.runs.robustness import mean_abilities


def summed_up(runs: Sequence[Mapping[str, Any]], references: Mapping[str, Any]) -> dict[str, Any]:
    """A trial from its runs with all seeds: means first, then the style that tells most and the lowest ability.

    Returns:
        {"diverged", "reached": in any run, in all runs; "steps", "seconds": mean, sum; "style", "value", "excess":
        of `what_is_left`; "lowest_ability", "kept"}; the last five are None where a run diverged.
    """
    diverged = any(run["diverged"] for run in runs)
    found = {
        "diverged": diverged,
        "reached": all(run["stopped_by"] is not None for run in runs),
        "steps": fmean(run["steps"] for run in runs),
        "seconds": sum(run["seconds"] for run in runs),
    }
    if diverged:
        return found | dict.fromkeys(("style", "value", "excess", "lowest_ability", "kept"))
    by_style = [run["by_style"][references["score"]] for run in runs]
    own = {style: fmean(one[style] for one in by_style) for style in by_style[0]}
    ability, kept = lowest_of_means(mean_abilities([run["abilities"] for run in runs]), references["abilities"])
    return found | what_is_left(own, references["ignorance"])._asdict() | {"lowest_ability": ability, "kept": kept}


def best_trial(trials: Sequence[Mapping[str, Any]], least_kept: float) -> tuple[int | None, str]:
    """The number of the best trial, and why it is: None where all of them diverged.

    Trials that reached the stopping score go before all others, however much those keep: who forgets nothing keeps
    everything. Of them, those that keep enough; of these, the one nearest to ignorance, which is no less near below it
    than above. Where none keeps enough, the one that keeps most. Of equals the one that keeps more, then the one
    with fewer steps, then the earlier.

    Args:
        trials: as `summed_up` has them.
        least_kept: share of its lowest ability that a trial must keep.
    """
    finished = [number for number, trial in enumerate(trials) if not trial["diverged"]]
    if not finished:
        return None, "every trial diverged"
    reached = [number for number in finished if trials[number]["reached"]]
    kept = [number for number in reached or finished if trials[number]["kept"] >= least_kept]
    share, unreached = f"{100 * least_kept:g} %", "" if reached else "no trial reached the stopping score; "
    if kept:
        best = min(kept, key=lambda i: (trials[i]["excess"], -trials[i]["kept"], trials[i]["steps"]))
        which = "that reached the stopping score and kept" if reached else "that kept"
        return best, f"{unreached}nearest to ignorance of the {len(kept)} {which} {share} of every ability"
    best = min(reached or finished, key=lambda i: (-trials[i]["kept"], trials[i]["excess"], trials[i]["steps"]))
    which = " that reached the stopping score" if reached else ""
    return best, f"{unreached}no trial{which} kept {share} of every ability: the one that keeps most"
