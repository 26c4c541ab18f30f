"""The price of forgetting: what a model can no longer do, and whether a style of questions speaks of forgetting at all.

All of it is made from the per-row records of original, oracles and unlearned model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_unlearn.errors import InputError
from llm_unlearn.examining.abilities import RETAIN, ability_label, ability_names
from llm_unlearn.examining.evidence import Evidence, strongest_runs
from llm_unlearn.examining.fluency import FLUENCY, MADE_UP_NAMES, fluency_threshold, well_formed
from llm_unlearn.examining.refusals import ANSWERED, ANSWERED_LABEL, FORGET_REFUSALS, RETAIN_REFUSALS
from llm_unlearn.examining.results import MODELS, model_names
from llm_unlearn.metrics.intervals import percentile_interval, resampled_difference

KEPT = 0.95  # of the weakest of original and oracles; an ability that is surely below is lost
SURE = 0.8  # an ability that may be below this share, and looks below KEPT, is not measured well enough
MEASURABLE = 0.1  # a reference below it has nothing to lose
SELECTIVE = 0.1  # of the drop on forget rows: if less of it is theirs alone, it was an ability that was lost
SMALLEST_LOSS = 0.1  # drop of retained facts' probability; a smaller one is no lost ability
MOST_UNITS = 1000  # that are drawn apart; of more, neighbors are drawn together
FLUENCY_LABEL = "fluency of what is said instead"
WELL_FORMED = "well_formed"
_SCORES = {  # score of an ability -> metric of the records, field
    "exact_match": ("exact_match", "score"),
    "probability": ("Q_A_Prob", "prob"),
    "rouge_l": ("Q_A_ROUGE", "rougeL_recall"),
}
Sides = dict[str, list[np.ndarray]]  # original, oracle, unlearned -> values of the rows of each such model

Records = Mapping[str, Mapping[str, Any]]


def abilities(
    results: Mapping[str, Any], records: Records, unlearned: Sequence[Records] | None = None
) -> list[Evidence]:
    """Every ability of the unlearned model beside the references, a score at a time, fluency last.

    Args:
        results, records: of a run.
        unlearned: records of several unlearned models (seeds) in place of the one in `records`.

    Returns:
        Evidence of kind "ability": `share` of the weakest of original and oracles; `excess` over it with `interval`;
        `lower` and `upper`: of unlearned - 0.95 reference, at a level that allows for all abilities together;
        `flagged`: surely lost; `decides`: the reference can do it.

    Raises:
        InputError: nothing scored, models of which not the same rows were scored, or units that are not of these rows.
    """
    own = [records[name] for name in model_names(records, "unlearned")] if unlearned is None else list(unlearned)
    if not own:
        return []
    units = results.get("units") or {}
    found: list[tuple[str, str, str, Sides, Sequence[int]]] = []
    for name in ability_names(_sets_of(own[0])):
        for score, (metric, field) in _SCORES.items():
            sides = _sides(
                records, own, lambda finding, key=f"{name}_{metric}", field=field: _values(finding, key, field)
            )
            if sides["unlearned"] and sides["original"]:
                drawn = _units(units, name, f"{name}_{metric}", sides)
                found.append((name, ability_label(name), score, sides, drawn))
    if (sides := _answered(records, own)) is not None:
        drawn = _units(_answered_units(units, own[0]), ANSWERED, RETAIN_REFUSALS, sides)
        found.append((ANSWERED, ANSWERED_LABEL, ANSWERED, sides, drawn))
    if (sides := _fluency(records, own)) is not None:
        found.append((FLUENCY, FLUENCY_LABEL, WELL_FORMED, sides, _units(units, "forget", FLUENCY, sides)))
    return [_ability(*finding, comparisons=len(found)) for finding in found]


def lost_abilities(evidence: Sequence[Evidence]) -> list[Evidence]:
    """The abilities that are surely lost, each once, by the score of which least was kept; fluency is none of them."""
    lost = sorted(
        (finding for finding in evidence if finding.flagged and finding.name != FLUENCY),
        key=lambda finding: finding.share,
    )
    least_kept: dict[str, Evidence] = {}
    for finding in lost:
        least_kept.setdefault(finding.name, finding)
    return list(least_kept.values())


def lowest_share(evidence: Sequence[Evidence]) -> Evidence | None:
    """The ability of which least was kept; None where none was measured."""
    kept = [
        finding for finding in evidence if finding.kind == "ability" and finding.decides and finding.name != FLUENCY
    ]
    return min(kept, key=lambda finding: finding.share, default=None)


def reference_abilities(measured: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Ability -> score -> mean of the weakest of original and oracles; what that one cannot do is left out.

    Args:
        measured: `abilities` of results.json, model -> ability -> mean scores.
    """
    models = [measured[name] for model in ("original", "oracle") for name in model_names(measured, model)]
    found: dict[str, dict[str, float]] = {}
    for name in models[0] if models else ():
        for score in _SCORES:
            values = [finding[name][score] for finding in models if score in finding.get(name, {})]
            if values and min(values) >= MEASURABLE:
                found.setdefault(name, {})[score] = min(values)
    return found


def lowest_of_means(
    own: Mapping[str, Mapping[str, float]], references: Mapping[str, Mapping[str, float]]
) -> tuple[str, float] | None:
    """As `lowest_share`, of any model and without intervals: the ability and its share; None where none was measured.

    Args:
        own: ability -> mean scores of the model. references: as `reference_abilities` has them.
    """
    shares = [
        (name, own[name][score] / reference)
        for name, scores in references.items()
        for score, reference in scores.items()
        if score in own.get(name, {})
    ]
    return min(shares, key=lambda finding: finding[1], default=None)


def _ability(name: str, label: str, score: str, sides: Sides, units: Sequence[int], *, comparisons: int) -> Evidence:
    means = {model: float(np.mean(side)) if (side := sides[model]) else None for model in MODELS}
    finding = Evidence("ability", name, label, score, **means)
    weakest = min([*sides["original"], *sides["oracle"]], key=np.mean)  # what one oracle lacks may be lost by chance
    reference = float(np.mean(weakest))
    finding.rows = len(units)
    if reference < MEASURABLE:
        finding.note = f"a reference has {reference:.2f}, so there is nothing to lose"
        return finding
    finding.decides, finding.share = True, finding.unlearned / reference
    first, second = np.stack(sides["unlearned"])[:, None], weakest[None, None]
    people = len(set(units))
    if people > MOST_UNITS:  # a resample of each would take memory that grows with the square of a large retain set
        units, people = [unit * MOST_UNITS // people for unit in units], MOST_UNITS
    finding.excess, resampled = resampled_difference(first, second, units)
    finding.interval = percentile_interval(resampled, units=people)
    _, resampled = resampled_difference(first, KEPT * second, units)
    finding.lower, finding.upper = percentile_interval(resampled, 1 - 0.05 / comparisons, people)
    finding.flagged = finding.upper < 0
    return finding


def is_unsure(finding: Evidence) -> bool:
    """Whether an ability looks lost and may be lost by much, but was measured on too few rows to say so."""
    if not finding.decides or finding.flagged or finding.share >= KEPT:
        return False
    reference = finding.unlearned - finding.excess
    return reference + finding.interval[0] < SURE * reference


def selectivity(results: Mapping[str, Any], records: Records, evidence: Sequence[Evidence]) -> None:
    """Give every comparison of answer probabilities its selectivity, where retained facts were asked alike.

    selectivity = (original - unlearned on forget rows) - (the same on retained rows); people of both sides are drawn
    apart. A style in which both sides fell (nearly) alike says that an ability was lost: it is no sign of forgetting,
    so it `decides` nothing, and `note` says so. What speaks *against* erasure does so all the same: `flagged` stays.
    After an attack that trains, both models are scored after that attack.
    """
    for finding in evidence:
        if finding.score != "forget_probability":
            continue
        pair = _both_sides(finding, results, records)
        if pair is None:
            continue
        (forget, retain), drawn = zip(*pair, strict=True)
        size = min(map(len, drawn))
        differences = drawn[0][:size] - drawn[1][:size]
        finding.selectivity = forget - retain
        finding.selectivity_interval = percentile_interval(differences)
        all_fell = retain >= SMALLEST_LOSS and all(percentile_interval(side)[0] > 0 for side in drawn)
        if all_fell and finding.selectivity_interval[0] <= SELECTIVE * forget:
            finding.decides, finding.ability_lost = finding.flagged, True
            finding.note = (
                f"ability lost, not forgetting: the probability of retained facts fell by {retain:.2f}, "
                f"that of forgotten ones by {forget:.2f}"
            )


def _both_sides(
    finding: Evidence, results: Mapping[str, Any], records: Records
) -> list[tuple[float, np.ndarray]] | None:
    """(mean drop from original to unlearned, resampled drops) of forget and of retained rows."""
    units = results.get("units") or {}
    style = "verbatim" if finding.kind == "output" else finding.variant
    if finding.kind == "output" or finding.name == "prompting":
        forget = "forget" if finding.kind == "output" else f"forget_{style}"
        sides = {}
        for name in (forget, f"retain_{style}"):
            values = [
                _values(records.get(model, {}), f"{name}_Q_A_Prob", "prob") for model in ("original", "unlearned")
            ]
            if any(side is None for side in values) or name not in units:
                return None
            drawn = _units(units, name, f"{name}_Q_A_Prob", {"original": values[:1], "unlearned": values[1:]})
            sides[name] = (*(side[None, None] for side in values), drawn)
    else:
        outcomes = [
            (results["attacks"].get(finding.name) or {}).get(model) or {} for model in ("original", "unlearned")
        ]
        if any("retain_units" not in outcome for outcome in outcomes):
            return None
        drawn = outcomes[0]["retain_units"]
        if any(unit >= len(drawn) for unit in drawn):
            raise InputError(
                f"attacks.{finding.name}.original.retain_units: the largest is {max(drawn)} of {len(drawn)}"
            )
        groups = results["forget_groups"]
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        forget_units = [numbers[group] for group in groups]
        sides = {
            field: (*(_attacked(outcome, field, len(units)) for outcome in outcomes), units)
            for field, units in (("value_by_index", forget_units), ("retain_value_by_index", drawn))
        }
        if any(side[0].shape != side[1].shape for side in sides.values()):
            return None
        for field, (*both, _) in sides.items():
            if not all(np.isfinite(side).any() for side in both):
                raise InputError(
                    f"attacks.{finding.name}: {field} has no row of the original or of the unlearned model"
                )
    return [
        resampled_difference(original, unlearned, drawn, seed=number)
        for number, (original, unlearned, drawn) in enumerate(sides.values())
    ]


def _attacked(outcome: Mapping[str, Any], field: str, rows: int) -> np.ndarray:
    """(1, runs of the strongest attacker, rows), NaN where a run did not score a row."""
    runs = strongest_runs(outcome)
    values = np.full((1, len(runs), rows), np.nan)
    for number, run in enumerate(runs):
        for row, value in (run.get(field) or {}).items():
            if int(row) >= rows or "probability" not in value:
                raise InputError(f"{field}: row {row} of {rows} rows" + " has no probability" * (int(row) < rows))
            values[0, number, int(row)] = value["probability"]
    return values


def _units(
    units: Mapping[str, Sequence[int]], name: str, metric: str, sides: Mapping[str, Sequence[np.ndarray]]
) -> Sequence[int]:
    """The number of the person of each row; every row one of its own where nobody says."""
    rows = {len(side) for given in sides.values() for side in given}
    if len(rows) > 1 or 0 in rows:
        raise InputError(f"records, {metric}: models have {' and '.join(map(str, sorted(rows)))} rows")
    drawn = units.get(name) or range(*rows)
    if len(drawn) not in rows or max(drawn) >= len(drawn):
        words = f"{len(drawn)} numbers up to {max(drawn)}"
        raise InputError(f"units.{name}: {words}, and records, {metric} has {max(rows)} rows")
    return drawn


def _fluency(records: Records, own: Sequence[Records]) -> Sides | None:
    """Which answers are well formed; the made-up names stand in for the oracle where there is none."""
    oracles = [records[name] for name in model_names(records, "oracle")]
    references = [finding[FLUENCY] for finding in oracles if FLUENCY in finding]
    original = records.get("original") or {}
    if not references and MADE_UP_NAMES in original:
        references = [original[MADE_UP_NAMES]]
    threshold = fluency_threshold(references)
    if threshold is None or not all(FLUENCY in finding for finding in own):
        return None

    def values(finding: Mapping[str, Any]) -> np.ndarray:
        return np.array(well_formed(finding[FLUENCY], threshold, finding.get(FORGET_REFUSALS)))

    return {
        "original": [values(original)] if FLUENCY in original else [],
        "oracle": [values(finding) for finding in oracles if FLUENCY in finding],
        "unlearned": [values(finding) for finding in own],
    }


def _answered(records: Records, own: Sequence[Records]) -> Sides | None:
    """Which retained questions are answered instead of refused."""

    def values(finding: Mapping[str, Any]) -> np.ndarray | None:
        refused = _values(finding, RETAIN_REFUSALS, "score")
        return None if refused is None else 1 - refused

    sides = _sides(records, own, values)
    return sides if sides["original"] and len(sides["unlearned"]) == len(own) else None


def _answered_units(units: Mapping[str, Sequence[int]], finding: Mapping[str, Any]) -> dict[str, list[int]]:
    """Whom the sampled retained rows are about, counted among themselves."""
    rows, people = [int(row) for row in finding[RETAIN_REFUSALS]["value_by_index"]], units.get(RETAIN)
    if not people:
        return {}
    if max(rows) >= len(people):
        raise InputError(f"records, {RETAIN_REFUSALS}: row {max(rows)}, and units.{RETAIN} has {len(people)} rows")
    drawn = [people[row] for row in rows]
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(drawn))}
    return {ANSWERED: [numbers[unit] for unit in drawn]}


def _sides(records: Records, own: Sequence[Records], values) -> Sides:
    models = {name: [records[finding] for finding in model_names(records, name)] for name in ("original", "oracle")}
    models["unlearned"] = list(own)
    found = {name: [values(finding) for finding in given] for name, given in models.items()}
    return {name: [side for side in given if side is not None] for name, given in found.items()}


def _values(records: Mapping[str, Any], metric: str, field: str) -> np.ndarray | None:
    if metric not in records:
        return None
    rows = records[metric]["value_by_index"]
    if missing := [number for number, row in rows.items() if field not in row]:
        raise InputError(f"records, {metric}: row {missing[0]} has no {field!r}")
    return np.array([row[field] for row in rows.values()], float)


def _sets_of(records: Mapping[str, Any]) -> list[str]:
    return [name.removesuffix("_Q_A_Prob") for name in records if name.endswith("_Q_A_Prob")]
