"""Tug-of-war (ToW): one number for how near an unlearned model is to the oracle, in what it forgot and in what it kept.

Source: Zhao et al., NeurIPS 2024, arXiv 2406.01257.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from statistics import fmean
from typing import Any

from llm_unlearn.errors import InputError
from llm_unlearn.examining.abilities import RETAIN
from llm_unlearn.examining.results import model_names


def tug_of_war(unlearned: Mapping[str, float], oracle: Mapping[str, float]) -> float:
    """ToW = product over the sets of 1 - |accuracy of the unlearned model - accuracy of the oracle|.

    Range 0 to 1, higher = nearer to retraining; the oracle itself has 1. Below the oracle counts like above.

    Args:
        unlearned, oracle: set (forget, retain, test) -> accuracy in [0, 1].

    Raises:
        InputError: no set, other sets on the two sides, or an accuracy outside [0, 1].
    """
    if not unlearned or unlearned.keys() != oracle.keys():
        raise InputError(f"tug of war between sets {[*unlearned]} and {[*oracle]}; give both the same ones")
    for name, value in [*unlearned.items(), *oracle.items()]:
        if not 0 <= value <= 1:
            raise InputError(f"accuracy on {name} is {value}; it must lie between 0 and 1")
    return prod(1 - abs(unlearned[name] - oracle[name]) for name in unlearned)


def accuracies(results: Mapping[str, Any], models: Sequence[str]) -> dict[str, float]:
    """Set -> mean over the models of the exact match of `forget`, `retain` and, of all other abilities, `test`.

    A language model has no test set of facts that nobody taught it; what it can do besides takes that place. Sets that
    were not measured are missing.

    Args:
        results: of a run, with `scores` and `abilities`.
        models: their names there.
    """
    by_model = []
    for name in models:
        abilities = results["abilities"][name]
        others = [one["exact_match"] for ability, one in abilities.items() if ability != RETAIN]
        found = {"forget": results["scores"][name]["forget_exact_match"]}
        found |= {"retain": abilities[RETAIN]["exact_match"]} if RETAIN in abilities else {}
        by_model.append(found | ({"test": fmean(others)} if others else {}))
    return {name: fmean(found[name] for found in by_model) for name in by_model[0]} if by_model else {}


def tug_of_war_of(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """ToW of a run's unlearned model beside the mean of its oracles, as {"value", "unlearned", "oracle"}; None without.

    Args:
        results: as `accuracies`.
    """
    oracles = model_names(results["scores"], "oracle")
    if not oracles:
        return None
    unlearned, oracle = accuracies(results, ["unlearned"]), accuracies(results, oracles)
    return {"value": tug_of_war(unlearned, oracle), "unlearned": unlearned, "oracle": oracle}
