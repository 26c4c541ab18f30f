"""What makes each row to forget hard, by a model that is given: nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from llm_unlearn.data import encode_dataset
from llm_unlearn.data.identity import has_label, has_several, labels_of, people_of
from llm_unlearn.data.made_up import MADE_UP, with_made_up_answers
from llm_unlearn.data.queries import spread
from llm_unlearn.errors import InputError
from llm_unlearn.examining.examination import Examination
from llm_unlearn.models.files import check_rows_fit
from llm_unlearn.models.judging import GatheredAnswers
from llm_unlearn.models.loading import check_block, decoder_layers
from llm_unlearn.models.scoring import score_answers
from llm_unlearn.planning.embeddings import question_states, questions
from llm_unlearn.planning.entanglement import (
    best_layer,
    centred_by_kind,
    entanglement_by_unit,
    entanglement_score,
    separation,
)
from llm_unlearn.planning.groups import levels, mean_by_unit, rows_by_group, units_together
from llm_unlearn.planning.memorization import knowledge_margin, memorization_gain

MEMORIZATION, ENTANGLEMENT = "memorization", "entanglement"
SCORES = (MEMORIZATION, ENTANGLEMENT)
GAIN, MARGIN, ALONE = "gain over the base", "margin over made-up answers", "answer probability"
MOST_LAYERS = 8  # that are looked at, evenly spread


@dataclass
class Hardness:
    """The scores of the forget rows of an examination.

    Attributes:
        original: folder or hub id of the model that is to forget.
        bases: models that were never taught the forget rows; none: memorization is estimated without.
        layer: number of the block whose states are the embeddings; None: chosen on retain rows.
        most_rows: retain rows, evenly spread, that give the retain set's centroid.
    """

    examination: Examination
    original: str
    bases: list[str]
    layer: int | None = None
    most_rows: int = 1000

    def measure(self, wanted: Sequence[str] = SCORES) -> dict[str, Any]:
        """All that can be measured.

        Returns:
            {"memorization": {"score": GAIN, MARGIN or ALONE, "by_row"}, "entanglement": {"layer", "why", "separation":
            {layer: value}, "published", "centered_by_kind" (None with a reason in "not_centered")}, "units": [{"unit",
            "rows", "memorization", "entanglement", "memorization_group", "entanglement_group"}], "groups": {score:
            {group: row numbers}}, "not_measured": {what: why}}; units have the centred entanglement where there is one.
        """
        model, not_measured = self.examination.load_model(self.original), {}
        if self.layer is not None:
            check_block(model, self.layer, "layer")
        units = units_together(self.examination.data.forget)
        found: dict[str, Any] = {"not_measured": not_measured, "groups": {}}
        by_unit: dict[str, Mapping] = {}
        for name, measure in ((MEMORIZATION, self._memorization), (ENTANGLEMENT, self._entanglement)):
            if name not in wanted:
                continue
            try:
                found[name], by_unit[name] = measure(model, units)
            except InputError as error:
                not_measured[name] = str(error)
        described = {}
        for number, unit in enumerate(units):
            described.setdefault(unit, {"unit": list(unit), "rows": []})["rows"].append(number)
        for name, scores in by_unit.items():
            level_of: Mapping = {}
            try:
                level_of = levels(scores)
                found["groups"][name] = rows_by_group(units, level_of)
            except InputError as error:
                not_measured[f"groups by {name}"] = str(error)
            for unit, one in described.items():
                one |= {name: scores.get(unit), f"{name}_group": level_of.get(unit)}
        return found | {"units": [*described.values()]}

    def _memorization(self, model: PreTrainedModel, units: list) -> tuple[dict, Mapping]:
        examination = self.examination
        gathered = GatheredAnswers(examination.processing_class, examination.max_length)
        rows = with_made_up_answers(examination.data.forget, examination.kinds)
        answers = gathered.add(rows, "forget set")
        truths, made_up = [], []
        if MADE_UP in rows.column_names and not self.bases:
            truths, made_up = gathered.add_made_up(rows, answers, "made-up answers")
        own = self._probabilities(model, gathered)
        if self.bases:
            others = [self._probabilities(self.examination.load_model(base), gathered) for base in self.bases]
            gains = memorization_gain(np.array(own)[[*answers]], np.mean(others, axis=0)[[*answers]])
            score, by_row = GAIN, gains.tolist()
        elif any(made_up):
            margins = knowledge_margin([own[i] for i in truths], [[own[i] for i in one] for one in made_up])
            score, by_row = MARGIN, margins
        else:
            score, by_row = ALONE, [own[i] for i in answers]
        return {"score": score, "by_row": by_row}, mean_by_unit(by_row, units)

    def _probabilities(self, model: PreTrainedModel, gathered: GatheredAnswers) -> list[float]:
        return [score.probability for score in score_answers(model, gathered.rows, self.examination.batch_size)]

    def _entanglement(self, model: PreTrainedModel, units: list) -> tuple[dict, Mapping]:
        data = self.examination.data
        if data.retain is None:
            raise InputError("entanglement is with rows to keep: give --retain_file")
        retain = data.retain.select(spread(list(range(len(data.retain))), self.most_rows))
        blocks = len(decoder_layers(model))
        layers = spread(list(range(blocks)), MOST_LAYERS) if self.layer is None else [self.layer]
        encoded = [self._encoded(rows, name) for name, rows in (("retain set", retain), ("forget set", data.forget))]
        padding = self.examination.processing_class.pad_token_id
        check_rows_fit(model.config, [*encoded[0], *encoded[1]], padding, f"model {self.original!r}")
        of_retain, of_forget = (
            question_states(model, questions(rows), layers, self.examination.batch_size) for rows in encoded
        )
        kinds = self._kinds(retain)
        layer, told = self._layer(of_retain, retain, kinds)
        found = {"layer": layer, "blocks": blocks, "retain_rows": len(retain), **told}
        sides = of_retain[layer], of_forget[layer]
        found["published"] = entanglement_score(*sides)
        found["centered_by_kind"], found["not_centered"] = None, None
        try:
            if kinds is None:
                raise InputError("no column says of which kind the questions are")
            centred = centred_by_kind(*sides, kinds, self._labels(data.forget))
            found["centered_by_kind"] = entanglement_score(*centred)
            sides = centred
        except InputError as error:
            found["not_centered"] = str(error)
        return found, entanglement_by_unit(*sides, units)

    def _layer(
        self, states: Mapping[int, np.ndarray], retain: Dataset, kinds: list | None
    ) -> tuple[int, dict[str, Any]]:
        """The layer to look at, with why, and how well each layer tells the retained people apart."""
        if self.layer is not None:
            return self.layer, {"why": "as given", "separation": {}}
        people = people_of(retain)
        named = [number for number, person in enumerate(people) if person is not None]
        if not has_several(people):
            return self._middle(states), {"why": "the middle: retain rows name no two people", "separation": {}}
        own = {}
        for layer, one in states.items():
            centred = one if kinds is None else centred_by_kind(one, one, kinds, kinds)[0]
            own[layer] = centred[named]
        units = [people[number] for number in named]
        try:
            told = {layer: separation(one, units) for layer, one in own.items()}
        except InputError as error:
            return self._middle(states), {"why": f"the middle: {error}", "separation": {}}
        return best_layer(own, units), {"why": "tells retained people apart best", "separation": told}

    @staticmethod
    def _middle(states: Mapping[int, np.ndarray]) -> int:
        return [*states][len(states) // 2]

    def _kinds(self, retain: Dataset) -> list | None:
        """The kind of each retain row; None where nothing says it, of these rows or of those to forget."""
        column = self.examination.kinds
        return None if column is None or not has_label(retain, column) else self._labels(retain)

    def _labels(self, rows: Dataset) -> list:
        return labels_of(rows, self.examination.kinds)

    def _encoded(self, rows: Dataset, name: str) -> list:
        return encode_dataset(rows, self.examination.processing_class, self.examination.max_length, name)


def mean_of_groups(found: Mapping[str, Any], score: str) -> dict[str, dict[str, float]]:
    """Group -> {"units", "rows", "lowest", "mean", "highest"} of a score, low first."""
    of_group: dict[str, list[dict]] = {}
    for unit in found["units"]:
        if (group := unit.get(f"{score}_group")) is not None:
            of_group.setdefault(group, []).append(unit)
    return {
        group: {
            "units": len(units),
            "rows": sum(len(unit["rows"]) for unit in units),
            "lowest": min(unit[score] for unit in units),
            "mean": fmean(unit[score] for unit in units),
            "highest": max(unit[score] for unit in units),
        }
        for group in found["groups"].get(score, ())
        if (units := of_group[group])
    }
