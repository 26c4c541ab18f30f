"""What audits found inside an unlearned model, as evidence: whatever it says, what is still in its hidden states?

Transfer probes are compared like any score: what readouts of *retained* people read off the states of forgotten ones,
in the unlearned model and in oracles, with an interval over people. They speak against erasure where more is read off
than off oracles and their own control holds: learned with shuffled labels, readouts must find no more than the most
frequent value. They never speak for it: what unlearning has moved elsewhere, they do not find.

Unlearning depth is shown and decides nothing: its control would be a model that never knew and has the coordinates of
the original, and there is none. Nor does retrain consistency: states unlike an oracle's need not hold the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np

from llm_unlearn.examining.evidence import SMALLEST_GAP, Evidence, Values, comparison, row_number
from llm_unlearn.examining.results import model_entries, model_names

INSIDE = "inside"  # the kind of this evidence
PROBES, DEPTH, CONSISTENCY = "probes", "depth", "consistency"  # scores, named like the audits
_LABELS = {
    PROBES: "values read off the hidden states",
    DEPTH: "unlearning depth",
    CONSISTENCY: "retrain consistency",
}
HEAD = "head_relearning"
ENOUGH_ORACLES = 3  # membership differs much between oracles: of three, one took all forgotten people for trained ones
_DAMAGE = 1.5  # times what the oracle's states cost: they are not only forgetful

Json = Mapping[str, Any]


def inside_evidence(results: Json, margin: float, comparisons: int) -> list[Evidence]:
    """One comparison for each audit that was made of the unlearned model.

    Args:
        results: the contents of results.json.
        margin: of what the original has over oracles: less is no knowledge worth the name.
        comparisons: how many others a verdict rests on.
    """
    audits = results.get("audits") or {}
    found = [_probes(audits, results["forget_groups"], margin, comparisons + 1), _depth(audits), _consistency(audits)]
    return [evidence for evidence in found if evidence is not None]


def aligned_numbers(found: Json) -> Json:
    """Of a model's retrain consistency, the aligned numbers before the value; at the question, where there is none."""
    return found["value" if "value" in found else "question"]["aligned"]


def inside_remarks(results: Json) -> list[str]:
    """What is worth a sentence beside the comparisons: who is called a trained person, and what nobody looked at."""
    audits = results.get("audits")
    remarks = [] if HEAD in results["attacks"] else ["nobody tuned the output head alone (--attacks head_relearning)"]
    if audits is None:
        remarks.append("nobody looked inside the model, whose states may hold what it does not say (--audits probes)")
        return remarks
    remarks += [
        f"not measured inside, {what.replace('_', ' ')}: {why}" for what, why in audits.get("not_measured", {}).items()
    ]
    members = {name: one["membership"] for name, one in audits.get(PROBES, {}).items() if one.get("membership")}
    oracles = [entry["forgotten"] for entry in model_entries(members, "oracle")]
    own = [entry["forgotten"] for entry in model_entries(members, "unlearned")]
    if own and len(oracles) >= ENOUGH_ORACLES and own[0] - max(oracles) > SMALLEST_GAP:
        remarks.append(
            f"its hidden states tell whom it was made to forget: {100 * own[0]:.0f} % of the forgotten people pass for "
            f"people whom it was trained on, in oracles {100 * max(oracles):.0f} % at most"
        )
    return remarks


def _probes(audits: Json, groups: list[str], margin: float, comparisons: int) -> Evidence | None:
    by_model = audits.get(PROBES) or {}
    if not model_names(by_model, "unlearned") or "original" not in by_model:
        return None
    values: Values = {name: _hits(found["value_by_index"], len(groups)) for name, found in by_model.items()}
    finding = comparison(values, groups, comparisons=comparisons)
    _name(finding, PROBES)
    own = by_model[model_names(by_model, "unlearned")[0]]
    by_chance = own["layers"][own["block"]]["shuffled"] - own["majority"]
    if by_chance > SMALLEST_GAP:
        finding.note = "readouts that were learned with shuffled labels find as much: they say nothing"
    finding.decides = finding.erasure is not None and by_chance <= SMALLEST_GAP
    finding.flagged = finding.decides and finding.lower > 0 and finding.erasure < 1 - margin
    return finding


def _hits(by_index: Json, rows: int) -> np.ndarray:
    """(1, forget rows): 1 where the readout was right, NaN where a row's value is shared by nobody retained."""
    values = np.full((1, rows), np.nan)
    for row, right in by_index.items():
        values[0, row_number(row, rows)] = right
    return values


def _depth(audits: Json) -> Evidence | None:
    by_model = audits.get(DEPTH) or {}
    own = model_entries(dict(by_model), "unlearned")
    if not own:
        return None
    others = [entry["uds"] for entry in model_entries(dict(by_model), "oracle")]
    finding = Evidence("", "", "", "", original=0.0, oracle=fmean(others) if others else 1.0, unlearned=own[0]["uds"])
    _name(finding, DEPTH)
    finding.unlearned_interval = own[0]["interval"] and tuple(own[0]["interval"])
    if own[0]["unclipped"] > _DAMAGE:
        finding.note = (
            f"its states cost the original's answers {own[0]['unclipped']:.1f} times what the oracle's do: damage or "
            "other coordinates, which pass for depth"
        )
    return finding


def _consistency(audits: Json) -> Evidence | None:
    own = model_entries(dict(audits.get(CONSISTENCY) or {}), "unlearned")
    if not own:
        return None
    others = (audits.get("consistency_ceiling") or {}).values()
    ceilings = [aligned_numbers(entry)["forget_consistency"]["value"] for entry in others]
    found = aligned_numbers(own[0])["forget_consistency"]
    finding = Evidence("", "", "", "", original=0.0, oracle=fmean(ceilings) if ceilings else 1.0)
    _name(finding, CONSISTENCY)
    finding.unlearned, finding.unlearned_interval = found["value"], found["interval"] and tuple(found["interval"])
    if ceilings and finding.oracle <= 0:
        finding.note = "oracles of other seeds agree with the first one no more than the original does: it says nothing"
    elif not ceilings:
        finding.note = "one oracle: how far another one would agree with it is not known"
    return finding


def _name(finding: Evidence, audit: str) -> None:
    finding.kind, finding.name, finding.score, finding.label = INSIDE, audit, audit, _LABELS[audit]
