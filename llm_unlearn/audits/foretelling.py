"""Which look inside a model foretells what an attack will bring back, before anybody attacks?

Over many unlearned models that were attacked already, rank correlations of what each audit says with knowledge after
reinjection; beside them what asking alone says: knowledge, probability and exact match before any attack. An audit that
foretells no better than plain questions is not worth its time as a forecast, whatever else it shows. Intervals draw
methods, since models of one method are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_unlearn.errors import InputError
from llm_unlearn.examining.fluency import FLUENCY
from llm_unlearn.examining.inside import aligned_numbers
from llm_unlearn.examining.results import read_results, read_verdict
from llm_unlearn.metrics.rank_correlation import rank_correlation

FEWEST = 8  # models: a rank correlation of fewer says nothing
ATTACK = "adversarial_reinjection"

Json = Mapping[str, Any]


# name -> section, and its number in what the section has of a model
AUDITS: dict[str, tuple[str, Callable[[Json], float | None]]] = {
    "read off, in the block that counts": ("probes", lambda found: found["layers"][found["block"]]["forgotten"]),
    "read off, in the best block": ("probes", lambda found: max(layer["forgotten"] for layer in found["layers"])),
    "called trained people": ("probes", lambda found: (found.get("membership") or {}).get("forgotten")),
    "unlearning depth (UDS)": ("depth", lambda found: found["uds"]),
    "retrain consistency": ("consistency", lambda found: aligned_numbers(found)["forget_consistency"]["value"]),
    "retrain direction": ("consistency", lambda found: aligned_numbers(found)["direction"]["value"]),
}
ASKED = ("forget_knowledge", "forget_probability", "forget_exact_match")


def attacked_before(path: str) -> dict[str, Any] | None:
    """What a run's folder says of the model in it: its method, whether it is damaged, and the scores that count.

    Args:
        path: of the model: RUN/adapter or RUN/model.

    Returns:
        {"method", "damaged": an ability is surely lost, "after": knowledge after reinjection, and by score what it had
        before}; None where there is no run around it, or knowledge was not measured before and after reinjection.

    Raises:
        InputError: somebody changed what the run left there, or it cannot be read.
    """
    folder = Path(path).parent
    if not (folder / "results.json").is_file() or not (folder / "verdict.json").is_file():
        return None
    results = read_results(folder)
    verdict = read_verdict(folder, results, f"make it with: llm-unlearn report {folder}")
    before = {one["score"]: one["unlearned"] for one in verdict["evidence"] if one["name"] == "output"}
    after = [
        one["unlearned"]
        for one in verdict["evidence"]
        if (one["name"], one["score"]) == (ATTACK, "forget_knowledge") and one["unlearned"] is not None
    ]
    if not after or before.get("forget_knowledge") is None:
        return None
    lost = any(one["flagged"] for one in verdict["evidence"] if one["kind"] == "ability" and one["name"] != FLUENCY)
    return before | {"method": results["method"].partition(":")[0], "damaged": lost, "after": after[0]}


def foretold(
    findings: Mapping[str, Mapping[str, Json]], paths: Mapping[str, str]
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """How well each audit, and each score before attacks, ranks models by what reinjection brings back.

    Args:
        findings: section -> model -> finding, as `look_inside` returns them.
        paths: model -> folder.

    Returns:
        {"models": how many, "methods": how many, "undamaged": how many models lost no ability, "correlations": name ->
        {"all", "undamaged", "rise": with how much knowledge rises, of undamaged ones; each {"value", "interval"}},
        "points": model -> {"method", "damaged", "after", "scores": name -> value}};
        None where fewer than `FEWEST` models were attacked. And what was left out because it cannot be read -> why.
    """
    models, unread = {}, {}
    for name in (name for name in paths if name.startswith("unlearned")):
        try:
            if (found := attacked_before(paths[name])) is not None:
                models[name] = found
        except InputError as error:  # the audits stand without it
            unread[f"what an attack brought back of {name}"] = str(error)
    if len(models) < FEWEST:
        return None, unread
    scores: dict[str, dict[str, float | None]] = {
        f"{score.removeprefix('forget_').replace('_', ' ')}, as asked": {
            name: found.get(score) for name, found in models.items()
        }
        for score in ASKED
    }
    for label, (section, number) in AUDITS.items():
        by_model = findings.get(section) or {}
        scores[label] = {name: number(by_model[name]) for name in models if name in by_model}
    undamaged = [name for name, found in models.items() if not found["damaged"]]
    after = {name: found["after"] for name, found in models.items()}
    rise = {name: found["after"] - found["forget_knowledge"] for name, found in models.items()}
    methods = {name: found["method"] for name, found in models.items()}
    scores = {label: found for label, found in scores.items() if any(value is not None for value in found.values())}
    return {
        "models": len(models),
        "methods": len({*methods.values()}),
        "undamaged": len(undamaged),
        "correlations": {
            label: {
                "all": _correlation(by_model, after, [*models], methods),
                "undamaged": _correlation(by_model, after, undamaged, methods),
                "rise": _correlation(by_model, rise, undamaged, methods),
            }
            for label, by_model in scores.items()
        },
        "points": {
            name: {key: found[key] for key in ("method", "damaged", "after")}
            | {"scores": {label: by_model.get(name) for label, by_model in scores.items()}}
            for name, found in models.items()
        },
    }, unread


def _correlation(
    first: Mapping[str, float | None],
    second: Mapping[str, float],
    names: Sequence[str],
    methods: Mapping[str, str],
) -> dict[str, Any]:
    shared = [name for name in names if first.get(name) is not None]
    numbers = {method: number for number, method in enumerate(dict.fromkeys(methods.values()))}
    found = rank_correlation(
        [first[name] for name in shared], [second[name] for name in shared], [numbers[methods[name]] for name in shared]
    )
    return {"value": found.value, "interval": found.interval and [*found.interval]}
