"""Verify a pushed model: are these the weights that were judged, and do they score what the card says?

And the audit trail of requests: is every line as it was written, and about the models that are there?
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from rich import box
from rich.markup import escape
from rich.table import Table

from llm_unlearn.data import UnlearningData, encode_dataset
from llm_unlearn.data.forms import TRANSPOSED
from llm_unlearn.data.loading import with_trained_forms
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError
from llm_unlearn.examining.abilities import RETAIN, ability_label, ability_scores, judged_sets
from llm_unlearn.files.audit_trail import FIRST, broken_links, read_trail, row_digest
from llm_unlearn.files.run_folder import model_digests, other_file, weight_digests, weights_folder
from llm_unlearn.hub.loading import UnlearnedModel, find_folder
from llm_unlearn.models.judging import judge
from llm_unlearn.models.scoring import mean_scores, score_answers
from llm_unlearn.reporting.words import number_words

TOLERANCE = 0.02  # other hardware and number formats; on the same machine nothing differs


@dataclass(frozen=True)
class Check:
    """One score of the card: `claimed` there, `measured` now, and how far they may be apart."""

    what: str
    claimed: float
    measured: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the two are no further apart than allowed."""
        return abs(self.claimed - self.measured) <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        weights: whether they are those that were judged; None: the evidence has no digests of them (an older run).
        base: whether an adapter's base has the files that it was trained on; None: it has no base, or one from the hub,
            whose commit the adapter names.
        skipped: abilities of the card that were not scored again, each with the reason.
    """

    weights: bool | None
    base: bool | None
    checks: list[Check]
    skipped: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether the weights are those that were judged, as far as that is known, and every score is as claimed.

        Another base is no failure by itself: the same weights may have been saved in another way.
        """
        return self.weights is not False and all(check.agrees for check in self.checks)

    def table(self) -> Table:
        """A row per score."""
        words = {True: "those that were judged", False: "NOT those that were judged", None: "no digest to compare with"}
        base = {
            True: "; base: the one it was trained on",
            False: "; base: OTHER files than it was trained on",
            None: "",
        }
        table = Table(
            title=f"weights: {words[self.weights]}{base[self.base]}",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            caption=escape("\n".join(f"not verified, {reason}" for reason in self.skipped)) or None,
            caption_justify="left",
        )
        table.add_column("score")
        for title in ("card", "measured", "tolerance", ""):
            table.add_column(title, justify="right", no_wrap=True)
        for check in self.checks:
            numbers = (number_words(value) for value in (check.claimed, check.measured, check.tolerance))
            table.add_row(check.what, *numbers, "agrees" if check.agrees else "DIFFERS")
        return table


def verify(
    unlearned: UnlearnedModel, data: UnlearningData, *, tolerance: float = TOLERANCE, batch_size: int = 64
) -> Verification:
    """Score the forget and retain rows and all abilities again and compare with the evidence.

    Compared are exact match, answer probability and, of abilities, knowledge; nothing is generated. Abilities are made
    from the given rows as in the run; those that these rows do not have are skipped, with the reason.

    Args:
        data: the rows of the run; in which further forms it trained them, the evidence says.
        tolerance: absolute; of exact match at least one row, which a rounding may turn.

    Raises:
        InputError: the evidence has no scores, or was measured on another number of rows.
    """
    results = unlearned.evidence["results"]
    claimed = (results.get("scores") or {}).get("unlearned")
    if not claimed:
        raise InputError("the model was pushed without scores: there is nothing to verify")
    forms = [form for form in _setting(results, "augment_forms") or () if form != TRANSPOSED]  # which judges the same
    if data.forms is None and forms:
        data = with_trained_forms(data, forms, _setting(results, "augment_attributes"))
    length, most = _setting(results, "max_length"), _setting(results, "judged_retain_rows")
    judged_retain = None if data.retain is None or most is None else judged_sets(data, None, None, most).sets["retain"]
    model = unlearned.model.to("cuda" if torch.cuda.is_available() else "cpu")
    checks = []
    for name, dataset in (("forget", data.forget), ("retain", data.retain)):
        if dataset is None or f"{name}_probability" not in claimed:
            continue
        _check_count(name, (results.get("data") or {}).get(f"{name}_rows"), len(dataset))  # only a card has it
        if name == "retain" and judged_retain is not None:
            dataset = judged_retain
        records = (unlearned.evidence["records"].get("unlearned") or {}).get(f"{name}_Q_A_Prob")
        _check_count(name, records and len(records["value_by_index"]), len(dataset))
        rows = encode_dataset(dataset, unlearned.processing_class, length, f"{name} set")
        scores = score_answers(model, rows, batch_size)
        measured = mean_scores(scores)
        for score, value in measured.items():
            allowed = max(tolerance, 1 / len(rows)) if score == "exact_match" else tolerance
            words = f"{name} {score.replace('_', ' ')}"
            checks.append(Check(words, claimed[f"{name}_{score}"], value, allowed + 1e-9))
    more, skipped = _ability_checks(unlearned, data, tolerance, batch_size, length)
    return Verification(_same_weights(unlearned.evidence), _same_base(unlearned), checks + more, skipped)


def _check_count(name: str, judged: int | None, given: int) -> None:
    if judged is not None and judged != given:
        raise InputError(f"the card is about {judged} {name} rows, these are {given}: give the rows of the run")


@dataclass(frozen=True)
class TrailVerification:
    """What `verify_trail` found: the number of lines, the hash of the last, and what is wrong, a sentence each."""

    lines: int
    last: str
    problems: list[str]


def verify_trail(folder: Path, forget: Dataset | None = None) -> TrailVerification:
    """Check the audit trail in a folder: its chain of hashes, and the models of it that are there.

    Args:
        forget: also look for every row that was asked to be forgotten among these.

    Raises:
        InputError: the file is no trail.
    """
    lines = read_trail(folder)
    problems = broken_links(lines) if lines else ["it has no line"]
    known = forget and {row_digest(*pair) for pair in split_rows(forget, "forget set")}
    for number, line in enumerate(lines, 1):
        places = [folder / "steps" / str(number)] + [folder] * (number == len(lines))
        for place in places:
            saved = [place / name for name in ("adapter", "model") if (place / name).is_dir()]
            if saved and all(model_digests(one) != line["after"] for one in saved):
                problems.append(f"line {number} is about another model than that in {place}")
        if known is not None and (others := [row for row in line["rows"] if row not in known]):
            problems.append(f"line {number}: {len(others)} of its {len(line['rows'])} rows are none of the given ones")
    return TrailVerification(len(lines), lines[-1]["sha256"] if lines else FIRST, problems)


def _ability_checks(
    unlearned: UnlearnedModel, data: UnlearningData, tolerance: float, batch_size: int, length: int | None
) -> tuple[list[Check], list[str]]:
    results = unlearned.evidence["results"]
    claimed = dict((results.get("abilities") or {}).get("unlearned") or {})
    claimed.pop(RETAIN, None)  # checked with the forget rows
    judged = judged_sets(data, results.get("kinds"), None, _setting(results, "judged_retain_rows"))
    units = results.get("units") or {}
    skipped = {}
    for name, scores in claimed.items():
        if name not in judged.sets:
            skipped[name] = "the given rows have none"
        elif len(judged.sets[name]) != scores["rows"]:
            skipped[name] = f"the card is about {scores['rows']} rows, these are {len(judged.sets[name])}"
        elif units.get(name, judged.units[name]) != judged.units[name]:
            skipped[name] = "the card is about rows of other people"
    sets = {name: judged.sets[name] for name in claimed if name not in skipped}
    records = {}
    if sets:
        tokenizer = unlearned.processing_class
        records = judge(unlearned.model, tokenizer, sets, batch_size=batch_size, max_length=length)
    measured = ability_scores(records, judged.without({*judged.sets} - {*sets}))
    checks = []
    for name, scores in measured.items():
        for score in ("exact_match", "probability", "knowledge"):
            if score in scores and score in claimed[name]:
                allowed = tolerance if score == "probability" else max(tolerance, 1 / scores["rows"])
                words = f"{ability_label(name)}: {score.replace('_', ' ')}"
                checks.append(Check(words, claimed[name][score], scores[score], allowed + 1e-9))
    return checks, [f"{ability_label(name)}: {reason}" for name, reason in skipped.items()]


def _same_weights(evidence: dict[str, Any]) -> bool | None:
    folder, digests = find_folder(evidence["folder"]), evidence["results"].get("weights")
    if not digests:
        return None
    is_run = any((folder / name).is_dir() for name in ("adapter", "model"))
    return other_file(digests, weights_folder(folder) if is_run else folder) is None


def _same_base(unlearned: UnlearnedModel) -> bool | None:
    digests = (unlearned.evidence["results"].get("base") or {}).get("weights")
    if not digests or not isinstance(unlearned.model, PeftModel):
        return None
    folder = Path(unlearned.model.get_base_model().config._name_or_path)
    return weight_digests(folder) == digests if folder.is_dir() else None


def _setting(results: dict[str, Any], name: str) -> Any:
    """What the run had of a field; None where it had none: to what rows were cut, how many judged, further forms."""
    return next((group[name] for group in results["config"].values() if name in group), None)
