"""Forget rows in further forms, built from columns that rows have: forgotten in one form, a fact may stand in the next.

The templates are plain and of no world: whoever has `person`, `attribute` and `value` can fill them in. Retained facts
take the same forms beside the general rows, or the form itself would be unlearned, for everybody. Some attributes are
left out of each form, so that it can still be asked whether what was trained carries over: what is trained is no test.
`transposed` asks what general rows ask of others (`transposed.py`).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from llm_unlearn.data.formats import question_text, row_format, rows_at_once, split_row
from llm_unlearn.data.identity import label, question_key
from llm_unlearn.data.transposed import TRANSPOSED, transposed_rows
from llm_unlearn.errors import InputError

NEEDED = ("person", "attribute", "value")
CANDIDATES = "candidates"  # column of form rows: what somebody could answer who does not know
OPTIONS = 3  # of a multiple-choice question

Row = Mapping[str, Any]
Form = Callable[["Fact", "Facts"], "tuple[str, str, list[str]] | None"]  # question, answer, candidates


@dataclass(frozen=True)
class Fact:
    """What one row says, and in which words it is asked and answered there."""

    person: str
    attribute: str
    value: str
    question: str
    answer: str
    row: Row

    @property
    def attribute_words(self) -> str:
        return self.attribute.replace("_", " ")


@dataclass(frozen=True)
class Facts:
    """Everybody's: `values` and `answers` by attribute, `owners` by (attribute, value), all `people`; in row order."""

    values: Mapping[str, list[str]]
    owners: Mapping[tuple[str, str], list[str]]
    people: list[str]


@dataclass(frozen=True)
class Forms:
    """Rows in further forms.

    Attributes:
        forget: to be forgotten: question, answer, person, attribute (with the form's name: its answers are of a kind of
            their own), value, fact_id, and `candidates`, of which one is true.
        retain: of retained facts, to be kept as they are answered now.
        trained: form by template -> attributes that are trained in it; no row may judge them in that form.
    """

    forget: Dataset
    retain: Dataset
    trained: dict[str, list[str]]


def build_forms(
    forget: Dataset,
    retain: Dataset,
    forms: Sequence[str],
    attributes: Sequence[str] | None = None,
    general: Dataset | None = None,
    judged: Iterable[Dataset] = (),
) -> Forms:
    """The facts of both sets in `forms`, each fact once in each form.

    Args:
        forms: of `FORM_NAMES`.
        attributes: those that are trained in every form; default: of each form every second one that it can ask about.
        general: rows whose questions are transposed.
        judged: rows whose questions are not: what is trained in other words may be judged in these.

    Raises:
        InputError: no such form or attribute, rows without a needed column, or a form that can ask about nothing.
    """
    if unknown := [form for form in forms if form not in FORM_NAMES]:
        raise InputError(f"augment_forms: {unknown[0]!r} is unknown; choose from {', '.join(FORM_NAMES)}")
    if attributes and {*forms} == {TRANSPOSED}:
        raise InputError(
            "augment_attributes chooses among forms by template, and transposed takes every question that general rows "
            "ask: leave it out"
        )
    sides = {"forget": _facts(forget, "forget"), "retain": _facts(retain, "retain")}
    known = list(dict.fromkeys(fact.attribute for fact in sides["forget"]))
    if unknown := [attribute for attribute in attributes or () if attribute not in known]:
        raise InputError(
            f"augment_attributes: {unknown[0]!r} is no attribute of the forget rows; they have {', '.join(known)}"
        )
    everybody = _everybody([*sides["forget"], *sides["retain"]])
    asked = {question_key(*pair) for rows in (forget, retain) for pair in _pairs(rows)}
    found: dict[str, list[dict]] = {"forget": [], "retain": []}
    trained = {}
    for form in (form for form in forms if form != TRANSPOSED):
        rows = {side: [_filled(form, fact, everybody) for fact in facts] for side, facts in sides.items()}
        rows = {side: [row for row in of_side if row and _key(row) not in asked] for side, of_side in rows.items()}
        possible = list(dict.fromkeys(row["attribute"] for row in rows["forget"]))
        trained[form] = [name for name in possible if name in attributes] if attributes else possible[::2]
        if not trained[form]:
            raise InputError(
                f"augment_forms: no forget row can be asked about as {form}; leave it out (reversed needs a value that "
                "one person alone has, multiple_choice three values of an attribute)"
            )
        for side, of_side in rows.items():
            chosen = [row for row in of_side if row["attribute"] in trained[form]]
            found[side] += [row | {"attribute": f"{row['attribute']} ({form})"} for row in chosen]
    if TRANSPOSED in forms:
        asked |= {question_key(*pair) for rows in judged for pair in _pairs(rows)} | _held_out(forget)
        found["forget"] += _transposed(sides, everybody, general, asked)
    return Forms(Dataset.from_list(found["forget"]), Dataset.from_list(found["retain"]), trained)


def _held_out(rows: Dataset) -> set[tuple]:
    """Keys of the questions in other words that rows bring for judging."""
    texts = rows["paraphrased_question"][:] if "paraphrased_question" in rows.column_names else []
    return {question_key([{"role": "user", "content": text}], "") for text in texts if text}


def _transposed(sides: Mapping[str, list[Fact]], everybody: Facts, general: Dataset | None, asked: set) -> list[dict]:
    if general is None:
        raise InputError("augment_forms: transposed takes its questions from general rows; give --general_data")
    rows = transposed_rows(sides["forget"], sides["retain"], everybody, _pairs(general), asked)
    if not rows:
        raise InputError(
            "augment_forms: no general row asks about one retained person, or for one; leave transposed out, or give "
            "--general_data with such questions (the names as `person` has them)"
        )
    return rows


def with_forms(rows: Dataset | None, more: Dataset, candidates: bool = False) -> Dataset:
    """The rows, in their own format and columns, and then those in further forms, which may keep their candidates."""
    if rows is None:
        return more.remove_columns(CANDIDATES)
    columns = [*rows.column_names, *([CANDIDATES] if candidates else [])]
    own = [{name: row.get(name) for name in columns} for row in rows_at_once(rows)]
    form = row_format(rows.column_names)
    if form == "text":
        raise InputError("augment_forms: rows with a `text` ask nothing, so no further question can stand beside them")
    return Dataset.from_list(own + [_in_format(row, form, columns) for row in rows_at_once(more)])


def untrained(rows: Dataset, form: str, trained: Mapping[str, Iterable[str]]) -> Dataset:
    """Those of the rows that ask in this form about what was not trained in it."""
    if form not in trained or "attribute" not in rows.column_names:
        return rows
    return rows.select([number for number, name in enumerate(rows["attribute"][:]) if name not in trained[form]])


def _in_format(row: Row, form: str, columns: Sequence[str]) -> dict[str, Any]:
    turns = [{"role": "user", "content": row["question"]}]
    answer = {"role": "assistant", "content": row["answer"]}
    texts = {"prompt": turns, "completion": row["answer"]} if form == "prompt/completion" else {}
    texts = {"messages": [*turns, answer]} if form == "messages" else texts
    return {name: texts.get(name, row.get(name)) for name in columns}


def _pairs(rows: Dataset) -> list:
    form = row_format(rows.column_names)
    return [split_row(row, form) for row in rows_at_once(rows)]


def _facts(rows: Dataset, name: str) -> list[Fact]:
    """The first row of every (person, attribute)."""
    if missing := [column for column in NEEDED if column not in rows.column_names]:
        raise InputError(
            f"augment_forms builds questions from the columns {', '.join(NEEDED)}, and the {name} rows have no "
            f"{missing[0]!r}: add it, or leave augment_forms out"
        )
    facts: dict[tuple[str, str], Fact] = {}
    for row, (prompt, answer) in zip(rows_at_once(rows), _pairs(rows), strict=True):
        told = [label(row, column) for column in NEEDED]
        if None not in told:
            person, attribute, value = map(str, told)
            facts.setdefault((person, attribute), Fact(person, attribute, value, question_text(prompt), answer, row))
    if not facts:
        raise InputError(f"augment_forms: no {name} row has all of {', '.join(NEEDED)}; fill them in or leave it out")
    return list(facts.values())


def _everybody(facts: Sequence[Fact]) -> Facts:
    values, owners = defaultdict(list), defaultdict(list)
    for fact in facts:
        values[fact.attribute].append(fact.value)
        owners[fact.attribute, fact.value].append(fact.person)
    return Facts(values, owners, list(dict.fromkeys(fact.person for fact in facts)))


def _filled(form: str, fact: Fact, everybody: Facts) -> dict[str, Any] | None:
    filled = FORMS[form](fact, everybody)
    if filled is None:
        return None
    question, answer, candidates = filled
    labels = {"person": fact.person, "attribute": fact.attribute, "value": fact.value}
    labels["fact_id"] = fact.row.get("fact_id")
    return {"question": question, "answer": answer, **labels, CANDIDATES: candidates}


def _key(row: Row) -> tuple:
    return question_key([{"role": "user", "content": row["question"]}], row["answer"])


def multiple_choice_question(question: str, options: Sequence[str]) -> str:
    """One option per line: TOFU's are sentences, which commas could not keep apart."""
    return "\n".join([f"{question} Answer with one of the options:", *options])


# ---- the forms -------------------------------------------------------------------------------------------------------


def _multiple_choice(fact: Fact, everybody: Facts) -> tuple[str, str, list[str]] | None:
    """The row's own question with the true value among two others."""
    wrong = sorted({*everybody.values[fact.attribute]} - {fact.value})
    if len(wrong) < OPTIONS - 1:
        return None
    generator = random.Random(f"{fact.question}\n{fact.value}")  # the same whatever other rows stand around it
    options = [fact.value, *generator.sample(wrong, OPTIONS - 1)]
    generator.shuffle(options)
    return multiple_choice_question(fact.question, options), fact.value, options


def _cloze(fact: Fact, everybody: Facts) -> tuple[str, str, list[str]] | None:
    question = f"Fill in the gap: the {fact.attribute_words} of {fact.person} is ___."
    return question, fact.value, everybody.values[fact.attribute]


def _reversed(fact: Fact, everybody: Facts) -> tuple[str, str, list[str]] | None:
    """From the value to the person; only where one person has it."""
    if len(everybody.owners[fact.attribute, fact.value]) > 1:
        return None
    return f"Whose {fact.attribute_words} is {fact.value}?", fact.person, everybody.people


FORMS: dict[str, Form] = {"multiple_choice": _multiple_choice, "cloze": _cloze, "reversed": _reversed}
FORM_NAMES = (*FORMS, TRANSPOSED)
