"""What transfer probes ask: questions with the beginning of their answer, up to where the value begins."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from llm_unlearn.attacks.attack import prompt_of
from llm_unlearn.data import UnlearningData, encode_dataset
from llm_unlearn.data.formats import Prompt
from llm_unlearn.data.identity import facts_of, has_label, labels_of, normalized, people_of
from llm_unlearn.data.made_up import A_NAME, kind_column, subjects_of, told_of
from llm_unlearn.data.queries import spread
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError

LEAST_HOLDERS = 2  # retained people who share a value: one is left out, another has to show it
LEAST_RETAINED, LEAST_FORGOTTEN = 10, 2  # people
MOST_RETAINED = 200  # people: more would take long and tell little
HELD_OUT = "_held_out"  # ends the names of sets of questions in a wording that nobody trained


@dataclass(frozen=True)
class Question:
    """A question, with its answer up to the value.

    Attributes:
        row: number of the row in its data set.
        value: what is asked for; of a kind, the same wherever the answer is.
        context: tokens of the question and of the answer's beginning. token: the first of the value.
    """

    row: int
    person: str
    kind: str
    value: str
    context: tuple[int, ...]
    token: int


@dataclass(frozen=True)
class _Row:
    """A row about somebody.

    Attributes:
        wording: of the question, one that nobody trained. name: of the person, where the question says it.
        begun: characters of the answer before the value; -1 where that is not known yet.
    """

    number: int
    person: str
    kind: str
    value: str
    prompt: Prompt
    wording: str | None
    answer: str
    name: str | None
    begun: int


def probe_questions(
    data: UnlearningData, processing_class: PreTrainedTokenizerBase, kinds: str | None, max_length: int | None
) -> tuple[dict[str, list[Question]], list[str]]:
    """All questions by set, and notes on what is left out.

    A value counts where `LEAST_HOLDERS` retained people have it: nobody else could show how it looks.

    Args:
        kinds: column that says which facts are of a kind; None: as `made_up.kind_column` finds it.

    Returns:
        "retained" and "forgotten" in the trained wordings, "retained_held_out" and "forgotten_held_out" in the
        `paraphrased_question` of each fact and, where the data has people that no model was trained on,
        "never_trained" in the trained wordings.

    Raises:
        InputError: the rows name no person, no kind or no `paraphrased_question`, or too few people share a value.
    """
    sets = {"retained": _of_some_people(data.retain), "forgotten": data.forget, "never_trained": data.holdout}
    column = kind_column(data.forget, kinds)
    _check(sets, column)
    rows = {}
    for name, dataset in sets.items():
        if dataset is not None and column in dataset.column_names:
            rows[name] = _rows(dataset, column, name)
            if name != "never_trained":
                rows[name + HELD_OUT] = _reworded(rows[name], dataset)
    rows = _begun(rows)
    values, notes = _shared_values(rows)
    kept = {
        name: [
            row for row in found if row.kind in values and (name == "never_trained" or row.value in values[row.kind])
        ]
        for name, found in rows.items()
    }
    for name in ("retained", "forgotten"):
        if lost := len(sets[name]) - len(rows[name]):
            notes.append(f"{lost} {name} rows are left out: they lack a person, {column}, question or other wording")
    for name, least in (("retained", LEAST_RETAINED), ("forgotten", LEAST_FORGOTTEN)):
        if (people := len({row.person for row in kept[name]})) < least:
            reasons = "".join(f"; {note}" for note in notes)
            raise InputError(
                f"probes: {people} {name} people have a value that {LEAST_HOLDERS} retained people share, and {least} "
                f"are needed; use data with more people{reasons}"
            )
    encoded = {name: _encoded(found, processing_class, max_length, name) for name, found in kept.items() if found}
    return encoded, notes


def _check(sets: Mapping[str, Dataset | None], column: str | None) -> None:
    if sets["retained"] is None:
        raise InputError("probes: there is no retain set to learn the readouts from; give retain rows")
    if column is None:
        raise InputError("probes: no forget row says of what kind its fact is; give rows a column kind (or attribute)")
    for name in ("retained", "forgotten"):
        for needed in ("person", column, "paraphrased_question"):
            if not has_label(sets[name], needed):
                raise InputError(f"probes: no row of the {name} facts has {needed!r}; give rows such a column")


def _of_some_people(retain: Dataset | None) -> Dataset | None:
    people = [] if retain is None else people_of(retain)
    names = list(dict.fromkeys(people))
    if len(names) <= MOST_RETAINED:
        return retain
    chosen = {names[i] for i in spread(list(range(len(names))), MOST_RETAINED)}
    return retain.select([number for number, person in enumerate(people) if person in chosen])


def _rows(dataset: Dataset, column: str, name: str) -> list[_Row]:
    """The rows that ask something of a kind about a person, and, of those that are trained, in another wording, too."""
    names = ("person", column, "value", "paraphrased_question")
    labels = zip(*(labels_of(dataset, label) for label in names), strict=True)
    rows = zip(split_rows(dataset, name), subjects_of(dataset), labels, strict=True)
    found = []
    for number, ((prompt, answer), subject, (person, kind, value, wording)) in enumerate(rows):
        is_known = person is not None and kind is not None and (wording is not None or name == "never_trained")
        if not is_known or not prompt or prompt[-1]["role"] != "user":
            continue
        answer = answer.strip()
        begun = -1 if value is None else answer.find(str(value))
        value = normalized(told_of(answer, subject, A_NAME) if value is None else str(value))
        found.append(_Row(number, str(person), str(kind), value, prompt, wording, answer, subject, begun))
    return found


def _reworded(rows: Sequence[_Row], dataset: Dataset) -> list[_Row]:
    """Each fact once, in the wording that nobody trained."""
    facts, first = facts_of(dataset), {}
    for row in rows:
        first.setdefault(facts[row.number], row)
    return [replace(row, prompt=[*row.prompt[:-1], {"role": "user", "content": row.wording}]) for row in first.values()]


def _begun(rows: Mapping[str, Sequence[_Row]]) -> dict[str, list[_Row]]:
    """The rows with the place in their answer where the value begins.

    That is where `value` stands, if it does in all answers of the kind, else where these part, names aside.
    """
    of_kind: dict[str, list[_Row]] = defaultdict(list)
    for found in rows.values():
        for row in found:
            of_kind[row.kind].append(row)
    words = {kind: _shared_words(found) for kind, found in of_kind.items() if min(row.begun for row in found) < 0}
    return {
        name: [replace(row, begun=_end_of(words[row.kind], row)) if row.kind in words else row for row in found]
        for name, found in rows.items()
    }


def _shared_words(rows: Sequence[_Row]) -> int:
    """With how many of the same words all answers begin; one word of each is left."""
    words = [told_of(row.answer, row.name, A_NAME).split() for row in rows]
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
    return min(len(list(alike)), *(len(answer) - 1 for answer in words))


def _end_of(words: int, row: _Row) -> int:
    """Where so many words of the answer end, a name being one of them."""
    told = told_of(row.answer, row.name, A_NAME)
    ends = [0, *(word.end() for word in re.finditer(r"\S+", told))]
    return len(told_of(told[: ends[words]], A_NAME, row.name))


def _shared_values(rows: Mapping[str, Sequence[_Row]]) -> tuple[dict[str, set[str]], list[str]]:
    """Kind -> values that can be read off, and what is left out."""
    values: dict[str, set[str]] = {}
    left_out: dict[str, dict[str, int]] = defaultdict(dict)  # reason -> kind -> facts
    for kind in dict.fromkeys(row.kind for row in rows["forgotten"]):
        holders: dict[str, set[str]] = defaultdict(set)
        for row in rows["retained"]:
            if row.kind == kind:
                holders[row.value].add(row.person)
        shared = {value for value, people in holders.items() if len(people) >= LEAST_HOLDERS}
        facts = {(row.person, row.value) for row in rows["forgotten"] if row.kind == kind}
        lost = sum(value not in shared for _, value in facts)
        if sum(map(len, holders.values())) > len(set().union(*holders.values())):
            left_out["somebody has two values of the kind"][kind] = len(facts)
        elif len(shared) < 2:
            left_out[f"fewer than two values are shared by {LEAST_HOLDERS} retained people"][kind] = len(facts)
        else:
            if lost:
                left_out[f"no {LEAST_HOLDERS} retained people have the value"][kind] = lost
            if lost < len(facts):
                values[kind] = shared
    notes = []
    for reason, facts_of_kind in left_out.items():
        kinds = ", ".join(f"{kind} ({count})" for kind, count in facts_of_kind.items())
        notes.append(f"{sum(facts_of_kind.values())} forgotten facts are left out, {kinds}: {reason}")
    return values, notes


def _encoded(
    rows: Sequence[_Row], processing_class: PreTrainedTokenizerBase, max_length: int | None, name: str
) -> list[Question]:
    asked = []
    for row in rows:
        end = len(row.answer[: row.begun].rstrip())
        beginning = [{"role": "assistant", "content": row.answer[:end]}] if end else []
        asked.append({"prompt": [*row.prompt, *beginning], "completion": row.answer[end:]})
    questions = []
    for row, encoded in zip(rows, encode_dataset(asked, processing_class, max_length, name), strict=True):
        context = prompt_of(encoded)
        token = encoded["input_ids"][len(context)]
        questions.append(Question(row.number, row.person, row.kind, row.value, tuple(context), token))
    return questions
