"""What was measured, as comparisons: each score of an unlearned model beside the original's and the oracles'.

Everything comes from results.json and the per-row records beside it, so that a verdict can be reached again by anyone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import stdev
from typing import Any

import numpy as np

from llm_unlearn.attacks import attack_label
from llm_unlearn.data.made_up import MOST_MADE_UP
from llm_unlearn.errors import InputError, named
from llm_unlearn.examining.results import MODELS, model_names
from llm_unlearn.metrics.intervals import percentile_interval, resampled_difference

SMALLEST_GAP = 0.15  # original minus oracle; below it an attack cannot tell erased from hidden
ORACLE_DEVIATIONS = 3  # likewise: the gap in standard deviations of the oracles
_ROW_VALUES = {"forget_probability": "probability", "forget_exact_match": "exact_match"}
SAID = "forget_value_said"
_RECORDS = {
    "forget_probability": ("Q_A_Prob", "prob"),
    "forget_exact_match": ("exact_match", "score"),
    SAID: ("value_said", "score"),
}
LEAK = "forget_leak_at_64"
KNOWLEDGE = "forget_knowledge"
IGNORANT = 0.5  # knowledge of whoever never saw the facts

Key = tuple[str, str | None, str]  # name ("output" or an attack), variant, score
# model -> (attack seeds, forget rows), NaN where a row was not scored; of knowledge (attack seeds, forget rows x
# made-up answers), NaN where there were fewer of these
Values = dict[str, np.ndarray]


@dataclass
class Evidence:
    """One score of three models.

    Attributes:
        kind: output (before any attack), ability, attack or counterfactual.
        rows: how many forget rows were scored (of the unlearned model, in any attack seed).
        unlearned_interval: 95 % interval of the unlearned model's score over people and attack seeds: where an attack
            that is written anew should land, too.
        excess: unlearned minus oracle, or true minus made-up facts, or knowledge minus 0.5, or of an ability unlearned
            minus the weakest of original and oracles; interval: its 95 % interval.
        lower, upper: the same with a level that allows for all comparisons of a verdict together.
        erasure: (original - unlearned) / (original - oracle): 0 as the original, 1 as the oracle; None where the two
            do not differ enough. Of knowledge, ignorance takes the oracle's place.
        share: of an ability, unlearned / the weakest of original and oracles.
        selectivity: how much more the forgotten facts' score fell than that of retained facts that are asked alike.
        made_up: of values said, the share of other facts' values of the kind that are said in their place: what
            guessing gives; beyond: how much more often the true one is, at least (the level of `lower`).
        ability_lost: whether retained facts' score fell alike, so that a low score shows no forgetting.
        decides: whether the verdict may rest on it. flagged: whether it speaks against erasure.
    """

    kind: str
    name: str
    label: str
    score: str
    variant: str | None = None
    original: float | None = None
    oracle: float | None = None
    unlearned: float | None = None
    unlearned_interval: tuple[float, float] | None = None
    excess: float | None = None
    interval: tuple[float, float] | None = None
    lower: float | None = None
    upper: float | None = None
    erasure: float | None = None
    decides: bool = False
    flagged: bool = False
    note: str | None = None
    rows: int | None = None
    share: float | None = None
    selectivity: float | None = None
    selectivity_interval: tuple[float, float] | None = None
    made_up: float | None = None
    beyond: float | None = None
    ability_lost: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        intervals = {name: getattr(self, name) for name in ("interval", "unlearned_interval", "selectivity_interval")}
        return asdict(self) | {name: list(ends) if ends else None for name, ends in intervals.items()}


def forget_values(results: Mapping[str, Any], records: Mapping[str, Any]) -> dict[Key, Values]:
    """The value of every forget row, by score and model: before any attack and after each.

    After relearning it is that of the strongest attacker, at the best step of each run. Decoding has leak_at_64.

    Args:
        results: of results.json.
        records: model -> its per-row records.

    Raises:
        InputError: a row that there is not, nothing scored, or models of which not the same was scored.
    """
    rows = len(results["forget_groups"])
    found: dict[Key, Values] = {}
    style_rows = results.get("style_rows") or {}
    prefixes = {("output", None): "forget"} | {("prompting", style): f"forget_{style}" for style in style_rows}
    for (name, variant), prefix in prefixes.items():
        places = style_rows.get(variant) if variant else None
        for model, by_metric in records.items():
            for score, (metric, field) in _RECORDS.items():
                if (record := by_metric.get(f"{prefix}_{metric}")) is not None:
                    with named(f"records/{model}.json, {prefix}_{metric}"):
                        placed = _placed(record["value_by_index"], places)
                        found.setdefault((name, variant, score), {})[model] = _rows([placed], field, rows)
            record = by_metric.get(f"{prefix}_knowledge") or {"value_by_index": {}}
            if any(row["wins"] for row in record["value_by_index"].values()):  # none where facts are of one person
                with named(f"records/{model}.json, {prefix}_knowledge"):
                    placed = _placed(record["value_by_index"], places)
                    found.setdefault((name, variant, KNOWLEDGE), {})[model] = _comparisons([placed], rows)
    for attack, by_model in results["attacks"].items():
        for model, outcome in by_model.items():
            for variant, runs in _runs(outcome).items():
                if variant == "verbatim" or (attack == "prompting" and variant in style_rows):
                    continue  # the plain questions are there as "output", the others from the records
                with named(f"attacks.{attack}.{model}{f'.variants.{variant}' if variant else ''}"):
                    for score in (LEAK,) if attack == "decoding" else _ROW_VALUES:
                        field = _ROW_VALUES.get(score, "leak_at_64")
                        found.setdefault((attack, variant, score), {})[model] = _rows(runs, field, rows)
                    if any(value.get("wins") for run in runs for value in run.values()):
                        found.setdefault((attack, variant, KNOWLEDGE), {})[model] = _comparisons(runs, rows)
    for (name, variant, score), values in found.items():
        shapes = {model: side.shape for model, side in values.items() if model != "original"}
        if len(set(shapes.values())) > 1:
            words = ", ".join(f"{model} {shape[0]} x {shape[1]}" for model, shape in shapes.items())
            raise InputError(f"{label_of(name, variant)}, {score}: attack seeds x rows differ between models: {words}")
    return found


def _placed(by_index: Mapping[str, Any], places: Sequence[int] | None) -> Mapping[str, Any]:
    """Rows of a style by the forget row that they come from."""
    if places is None:
        return by_index
    return {str(places[row_number(row, len(places))]): value for row, value in by_index.items()}


def comparison(
    values: Values, groups: Sequence[str], *, comparisons: int = 1, unlearned: Sequence[np.ndarray] | None = None
) -> Evidence:
    """Means, excess over the oracle with its interval, and erasure; the caller names it.

    With few people these intervals are too narrow: of six whose excess is none, 6 % of those with the level for ten
    comparisons (which should be 0.5 %) leave zero out. They are left so, other than those of knowledge, for the error
    is on the safe side: a verdict calls *hidden* what might be chance, where wider ones would call it erased.

    Args:
        values: as `forget_values` has them.
        groups: the person of each row.
        comparisons: how many a verdict rests on: `lower` and `upper` have the level 1 - 0.05 / comparisons.
        unlearned: several unlearned models (seeds) in place of the one in `values`.
    """
    original, oracles, given = ([values[name] for name in model_names(values, kind)] for kind in MODELS)
    unlearned = list(unlearned) if unlearned is not None else given
    means = {
        name: float(np.nanmean(np.stack(side))) if side else None
        for name, side in (("original", original), ("oracle", oracles), ("unlearned", unlearned))
    }
    evidence = Evidence("", "", "", "", **means)
    groups = np.repeat(groups, (unlearned or original or oracles)[0].shape[1] // len(groups))
    if unlearned:
        evidence.rows = int(np.isfinite(np.concatenate(unlearned)).any(axis=0).sum())
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    units = [numbers[group] for group in groups]
    if unlearned:
        evidence.unlearned_interval = percentile_interval(resampled_difference(np.stack(unlearned), None, units)[1])
    if oracles and unlearned:
        evidence.excess, resampled = resampled_difference(np.stack(unlearned), np.stack(oracles), units)
        evidence.interval = percentile_interval(resampled)
        evidence.lower, evidence.upper = percentile_interval(resampled, 1 - 0.05 / comparisons)
    if original and oracles and unlearned:
        gap = means["original"] - means["oracle"]
        deviation = stdev([float(np.nanmean(side)) for side in oracles]) if len(oracles) > 1 else 0.0
        if gap >= max(SMALLEST_GAP, ORACLE_DEVIATIONS * deviation):
            evidence.erasure = (means["original"] - means["unlearned"]) / gap
        else:
            evidence.note = "original and oracle hardly differ here"
    return evidence


def knowledge_comparison(
    values: Values, groups: Sequence[str], *, comparisons: int = 1, unlearned: Sequence[np.ndarray] | None = None
) -> Evidence:
    """As `comparison`, of knowledge: beside ignorance (0.5) and not the oracle, which is only shown."""
    own = list(unlearned) if unlearned is not None else [values[name] for name in model_names(values, "unlearned")]
    references = {name: side for name, side in values.items() if not name.startswith("unlearned")}
    evidence = comparison(references, groups, unlearned=own)
    evidence.excess = evidence.interval = evidence.lower = evidence.upper = evidence.erasure = evidence.note = None
    names = [str(group) for group in groups]
    people = len(set(names))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    evidence.score = KNOWLEDGE
    if own:
        width = own[0].shape[1] // len(names)
        units = [numbers[name] for name in names for _ in range(width)]
        evidence.rows = int(np.isfinite(np.concatenate(own)).any(axis=0).reshape(len(names), width).any(axis=1).sum())
        known, resampled = resampled_difference(np.stack(own), None, units)
        evidence.excess = known - IGNORANT
        evidence.unlearned_interval = percentile_interval(resampled, units=people)
        evidence.interval = tuple(end - IGNORANT for end in evidence.unlearned_interval)
        level = 1 - 0.05 / comparisons
        evidence.lower, evidence.upper = (end - IGNORANT for end in percentile_interval(resampled, level, people))
    if evidence.original is None:
        return evidence
    if evidence.original - IGNORANT >= SMALLEST_GAP:
        if own:
            evidence.erasure = (evidence.original - evidence.unlearned) / (evidence.original - IGNORANT)
    else:
        evidence.note = "the original cannot tell true answers from made-up ones here"
    return evidence


def beyond_guessing(
    results: Mapping[str, Any], records: Mapping[str, Any], style: str | None, comparisons: int
) -> tuple[float, float] | None:
    """How often the unlearned model says other facts' values of a kind, and how much more often the true one, at least.

    Whoever knows nothing says both equally often, oracle or not. None: nothing says which values are of a kind.

    Args:
        results, records: as of `forget_values`.
        style: of questions; None: the plain ones.
        comparisons: as of `comparison`.
    """
    groups, places = results["forget_groups"], results["style_rows"][style] if style else None
    own = next((records[name] for name in model_names(records, "unlearned")), {})
    record = own.get(f"forget_{style}_value_said" if style else SAID) or {"value_by_index": {}}
    placed = _placed(record["value_by_index"], places)
    rows = {row: value for row, value in placed.items() if value.get("made_up") is not None}
    if not rows:
        return None
    said, guessed = (_rows([rows], field, len(groups)) for field in ("score", "made_up"))
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    _, resampled = resampled_difference(said[None], guessed[None], [numbers[group] for group in groups])
    return float(np.nanmean(guessed)), percentile_interval(resampled, 1 - 0.05 / comparisons)[0]


def control_differences(outcome: Mapping[str, Any], rows: int, after: bool) -> np.ndarray:
    """True minus made-up facts of the counterfactual control, mean over derangements: (attack seeds, forget rows).

    Args:
        outcome: of `attacks.knowledge_excess`.
        after: reinjection, or else before it: then there is one "seed".
    """

    def side(one: Mapping[str, Any]) -> np.ndarray:
        runs = _runs(one)[None] if after else [one["before_by_index"]]
        return _rows(runs, "probability", rows)

    return side(outcome["true"]) - np.mean([side(one) for one in outcome["counterfactual"].values()], axis=0)


def label_of(name: str, variant: str | None) -> str:
    """What tables and sentences call a comparison."""
    words = "before any attack" if name == "output" else attack_label(name)
    return words if variant is None else f"{words}: {variant.replace('_', ' ')}"


def strongest_runs(outcome: Mapping[str, Any]) -> list[dict]:
    """The runs of a relearning attack with the attacker and the learning rate that count."""
    names = ("attacker", "learning_rate")
    for one in (outcome, *outcome.get("runs", [])):
        needed = names if one is outcome else (*names, "seed", "value_by_index")
        if missing := [name for name in needed if name not in one]:
            raise InputError(f"runs: {missing[0]} is missing, by which the strongest are told")
    return [run for run in outcome["runs"] if all(run[name] == outcome[name] for name in names)]


def _runs(outcome: Mapping[str, Any]) -> dict[str | None, list[dict]]:
    """Variant -> per-row values of each attack seed; relearning has one nameless variant."""
    if "variants" in outcome:
        return {variant: [values["value_by_index"]] for variant, values in outcome["variants"].items()}
    by_seed: dict[int, dict] = {}
    for run in strongest_runs(outcome):  # where groups are left out in turn, a seed has a run for each
        by_seed.setdefault(run["seed"], {}).update(run["value_by_index"])
    return {None: [by_seed[seed] for seed in sorted(by_seed)]}


def _comparisons(runs: Sequence[Mapping[str, Mapping[str, Any]]], rows: int) -> np.ndarray:
    """Wins over made-up answers: (runs, rows x most made-up answers of a row)."""
    width = max(MOST_MADE_UP, *(len(value.get("wins") or ()) for run in runs for value in run.values()))
    values = np.full((len(runs), rows, width), np.nan)
    for number, by_index in enumerate(runs):
        for row, value in by_index.items():
            wins = value.get("wins") or ()
            values[number, row_number(row, rows), : len(wins)] = wins
    return values.reshape(len(runs), rows * width)


def _rows(runs: Sequence[Mapping[str, Mapping[str, float]]], field: str, rows: int) -> np.ndarray:
    values = np.full((len(runs), rows), np.nan)
    for number, by_index in enumerate(runs):
        for row, value in by_index.items():
            if field not in value:
                raise InputError(f"row {row} has no {field!r}")
            values[number, row_number(row, rows)] = value[field]
    if not np.isfinite(values).any():
        raise InputError("no row was scored")
    return values


def row_number(row: str, rows: int) -> int:
    """The number of a row of so many; InputError where there is none."""
    if int(row) >= rows:
        raise InputError(f"row {row} of {rows} rows")
    return int(row)
