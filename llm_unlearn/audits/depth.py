"""Unlearning depth: at which blocks does an unlearned model still hold what the original can make an answer of?

The original answers once more with its hidden states after one block replaced by the tested model's, at the tokens
before those that are the value asked for, and goes on from there by itself. Where the states still hold the value, the
original says it, whatever the tested model would have said. The scale is the same with an oracle's states. A score is
the mean of the rows' (`metrics/depth.py`): 0 for the original, 1 for the oracle, both by construction.

The value is what an answer does not share with made-up answers to its question (those of the logit lens): the
publication marks it by hand. Where no such answers can be made, all of the answer counts.

Without an oracle, the original itself stands in its place, asked about other people: about such as no model was trained
on, where the data has them. Its states lack the value too, but they are a model's that knows that it was asked about
someone else.

The original is kept in memory beside each other model, for it is what runs.

Source: arXiv 2605.24614. Its code puts states in the last block's place that have gone through the final norm, which
then acts on them twice; here they are the block's own. `llm-unlearn run peers` has the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from llm_unlearn.audits.asked import MOST_ROWS, answers_of, asked_values, check_shape, sampled, shape_of
from llm_unlearn.audits.audit import Audit, Inspection, Measure
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.identity import people_of, units_of
from llm_unlearn.data.made_up import subjects_of, told_of
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError
from llm_unlearn.metrics.depth import THRESHOLD, depth_scores
from llm_unlearn.metrics.intervals import percentile_interval, resampled_difference
from llm_unlearn.models.hidden_states import states_at
from llm_unlearn.models.patching import Asked, log_prob_drops


def swapped(asked: Asked, other: EncodedRow) -> Asked | None:
    """The same value in a text about someone else; None where it is not there exactly once."""
    answer = answers_of([other])[0]
    size = len(asked.value)
    places = [i for i in range(answer.start, len(answer.ids) - size + 1) if answer.ids[i : i + size] == asked.value]
    return Asked(answer.ids, places[0], places[0] + size) if len(places) == 1 else None


def about_others(rows: Dataset, names: Sequence[str]) -> Dataset:
    """The rows with another name, in the question and the answer, in the place of each person's; the same for a person.

    Args:
        rows: in any format. Those whose question does not name their person stay as they are.
        names: of others.
    """
    pairs, people = split_rows(rows, "forget set"), subjects_of(rows)
    name_of = dict(zip(dict.fromkeys(name for name in people if name is not None), cycle(names), strict=False))
    if not name_of:
        return rows
    told = []
    for (messages, answer), name in zip(pairs, people, strict=True):
        other = name_of.get(name)
        prompt = [message | {"content": told_of(message["content"], name, other)} for message in messages]
        told.append({"prompt": prompt, "completion": told_of(answer, name, other)})
    return Dataset.from_list(told)


def _start(inspection: Inspection) -> Measure:
    rows = sampled(inspection.data.forget, MOST_ROWS)
    try:
        texts, asked = asked_values(inspection, rows, "forget set (depth)")
        what = "values"
    except InputError:
        if inspection.group_by is not None:
            raise
        texts, asked = rows, answers_of(inspection.encoded(rows, "forget set (depth)"))
        what = "whole answers"
    numbers = [number for number, one in enumerate(asked) if one is not None]
    units = units_of(texts)
    original: PreTrainedModel | None = None
    reference: tuple[str, np.ndarray] | None = None

    def drops_with(model: PreTrainedModel, chosen: Sequence[int], sources: Sequence[Asked]) -> np.ndarray:
        """(blocks, rows of the forget sample); NaN where a row is not among the chosen ones."""
        states = states_at(model, [one.ids for one in sources], [one.before for one in sources], inspection.batch_size)
        found = log_prob_drops(original, [asked[number] for number in chosen], states, inspection.batch_size)
        drops = np.full((len(found), len(asked)), np.nan)
        drops[:, [*chosen]] = found
        return drops

    def of_others() -> np.ndarray:
        others = inspection.encoded(about_others(texts, _other_names(inspection)), "forget set (other names)")
        pairs = {n: swapped(asked[n], others[n]) for n in numbers if others[n]["input_ids"] != [*asked[n].ids]}
        pairs = {number: other for number, other in pairs.items() if other is not None}
        if not pairs:
            raise InputError(
                "unlearning depth: there is no oracle, and no forget question names its person, so that it could be "
                "asked about another one; give --oracle_model_name_or_path"
            )
        return drops_with(original, [*pairs], [*pairs.values()])

    def measure(name: str, model: PreTrainedModel) -> dict[str, Any]:
        nonlocal original, reference
        if original is None:
            original = model
            return {}
        check_shape("unlearning depth", name, shape_of(model), shape_of(original))
        if reference is None and not name.startswith("oracle"):
            reference = ("original, asked about others", of_others())
        drops = drops_with(model, numbers, [asked[number] for number in numbers])
        if reference is None:
            reference = (name, drops)
            return {}
        return {"depth": _finding(*reference, drops, units) | {"tokens": what}}

    return measure


def _other_names(inspection: Inspection) -> list[str]:
    """Whom else the original can be asked about: people that no model knows, else retained ones."""
    data = inspection.data
    for rows in filter(None, (data.holdout, data.retain)):
        names = [str(name) for name in dict.fromkeys(people_of(rows)) if name is not None]
        if names:
            return names
    raise InputError(
        "unlearning depth: there is no oracle, and no row to retain or held out has a person, whom the original could "
        "be asked about in its place; give --oracle_model_name_or_path"
    )


def _finding(reference: str, reference_drops: np.ndarray, drops: np.ndarray, units: Sequence[int]) -> dict[str, Any]:
    known = reference_drops > THRESHOLD
    scores = depth_scores(reference_drops, drops)
    scored = np.flatnonzero(np.isfinite(scores))
    if not len(scored):
        raise InputError(
            f"unlearning depth: with the states of the {reference}, no row's answer loses more than {THRESHOLD} nats a "
            "token after any block, so there is nothing to lose; give an original that knows the forget rows"
        )
    people = np.unique(np.asarray(units)[scored], return_inverse=True)[1].tolist()
    _, resampled = resampled_difference(scores[None, None, scored], None, people)
    count = len(set(people))
    return {
        "uds": float(scores[scored].mean()),
        "interval": [*percentile_interval(resampled, units=count)] if count > 1 else None,
        "unclipped": float(drops[known].sum() / reference_drops[known].sum()),
        "of_means": _one(depth_scores(*(np.nanmean(part, 1)[:, None] for part in (reference_drops, drops)))[0]),
        "by_layer": [_one(value) for value in depth_scores(reference_drops.T, drops.T)],
        "value_by_index": {str(number): float(scores[number]) for number in scored},
        "rows": len(scored),
        "rows_left_out": len(scores) - len(scored),
        "drops_by_layer": [float(value) for value in np.nanmean(drops, 1)],
        "reference_drops_by_layer": [float(value) for value in np.nanmean(reference_drops, 1)],
        "reference": reference,
    }


def _one(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


AUDIT = Audit(
    "depth",
    summary="at which blocks the original can still make the answer of a model's hidden states",
    sections=("depth",),
    start=_start,
)
