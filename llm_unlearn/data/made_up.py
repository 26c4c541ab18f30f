"""Made-up answers: the true answers of other facts of the same kind, to compare the true one with.

Answers of *other forgotten facts* are as good a guess as the truth for whoever never saw any of them, so that nothing
but knowledge tells them apart. Values of retained people are not: who knows whose they are knows that they are wrong.
"""

from __future__ import annotations

import random
import re
from collections.abc import Container, Sequence

from datasets import Dataset

from llm_unlearn.data.formats import Prompt, question_text, rows_at_once
from llm_unlearn.data.identity import facts_of, has_label, labels_of, people_of
from llm_unlearn.data.queries import with_column
from llm_unlearn.data.validation import split_rows
from llm_unlearn.data.value_said import COLUMN as VALUE_COLUMN
from llm_unlearn.errors import InputError

MOST_MADE_UP = 6  # answers that a row is compared with; even, see `MadeUpAnswers`
MOST_VALUES = 20  # and so many values are looked for in what is said
KIND_COLUMNS = ("kind", "attribute")  # what says which answers are of one kind, in this order
MADE_UP = "made_up_answer"  # column of lists
MADE_UP_VALUE = "made_up_value"  # likewise: `MadeUpAnswers.values`
A_NAME = "\0"  # stands for the name of whom an answer is about
MADE_UP_QUESTION = "made_up_question"  # under which true and made-up answers are compared, where it is another one


def kind_column(dataset: Dataset, chosen: str | None = None) -> str | None:
    """The column that says which answers are of one kind; None where nothing does.

    Args:
        chosen: the user's choice.

    Raises:
        InputError: the chosen column is not there, or is empty.
    """
    columns = dataset.column_names
    if chosen is not None and chosen not in columns:
        raise InputError(
            f"counterfactual_group_by={chosen!r} is no column of the forget rows; choose one of {', '.join(columns)}"
        )
    if chosen is not None and not has_label(dataset, chosen):
        raise InputError(f"counterfactual_group_by={chosen!r}: no forget row has a value there; choose another column")
    return chosen or next((name for name in KIND_COLUMNS if has_label(dataset, name)), None)


def subjects_of(dataset: Dataset, or_in_answer: bool = False) -> list[str | None]:
    """The person whom each row asks about by the name that `person` has; None where the question does not say it.

    Args:
        or_in_answer: take rows that ask for the name, too.
    """
    pairs = split_rows(dataset, "rows")
    said = [f"{question_text(prompt)}\n{answer if or_in_answer else ''}" for prompt, answer in pairs]
    names = [None if person is None else str(person) for person in people_of(dataset)]
    return [
        name if name is not None and says_name(text, name) else None for name, text in zip(names, said, strict=True)
    ]


def says_name(text: str, name: str) -> bool:
    """Whether a text holds a name, as words of its own."""
    return _as_word(name).search(text) is not None


def says_part(text: str, name: str) -> bool:
    """Whether a text holds a name, or its first or last word alone."""
    return any(says_name(text, part) for part in (name, name.split()[0], name.split()[-1]))


def told_of(answer: str, name: str | None, other: str | None) -> str:
    """The answer with another name in it; as it is where either is None."""
    return answer if name is None or other is None else _as_word(name).sub(lambda _found: other, answer)


def told_of_whole(text: str, name: str, other: str) -> str:
    """The same, where only the first or the last name is said, too; for two names without a word in common."""
    text, own, others = told_of(text, name, other), name.split(), other.split()
    if len(own) > 1 and len(others) > 1:
        text = told_of(told_of(text, own[0], others[0]), own[-1], others[-1])
    return text


def _as_word(name: str) -> re.Pattern[str]:
    """Finds a name, and not in a longer word: "Ann" is not in "Annapolis"."""
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")


class MadeUpAnswers:
    """The answers that each row of a data set may be compared with.

    Rows of one fact (`identity.facts_of`) stay together: a fact is never compared with an answer of its own, and a
    wording of it with the same wording of another fact. Where a row begins its answer itself (prefix queries), answers
    of rows with the same beginning count, without it. A row that names no kind has no made-up answers.

    Where a question names the row's `person`, an answer of another is told of that one: the name in it is exchanged, or
    it would give the made-up away.

    Facts of a kind stand in a circle, and each is compared with its nearest on both sides. So one fact is compared with
    another exactly if that is with it. Were answers drawn for each fact apart, those that are true of many would win
    too often: nobody who holds one can be compared with another holder, and meets the rare ones more often than these
    meet it (measured: 0.56 in place of 0.50 for a model that only knows which answers are frequent).

    Args:
        dataset: rows in any format with a question.
        column: says which answers are of a kind, as `kind_column` finds it.
    """

    def __init__(self, dataset: Dataset, column: str):
        pairs = split_rows(dataset, "rows")
        self._names = subjects_of(dataset)
        self._begun = [
            told_of(_begun(prompt), name, A_NAME) for (prompt, _), name in zip(pairs, self._names, strict=True)
        ]
        answers = [told_of(answer, name, A_NAME) for (_, answer), name in zip(pairs, self._names, strict=True)]
        self._answers = [begun + answer for begun, answer in zip(self._begun, answers, strict=True)]
        self._units = list(zip(labels_of(dataset, column), facts_of(dataset), strict=True))
        self._rows_of: dict[tuple, list[int]] = {}
        for row, unit in enumerate(self._units):
            self._rows_of.setdefault(unit, []).append(row)
        self._values = labels_of(dataset, VALUE_COLUMN)
        self._own = {unit: {self._answers[i].strip() for i in rows} for unit, rows in self._rows_of.items()}
        self._of_kind: dict[object, list[tuple]] = {}
        for unit in sorted(self._rows_of, key=lambda unit: random.Random(f"{unit[0]} {unit[1]}").random()):
            self._of_kind.setdefault(unit[0], []).append(unit)

    def of(self, row: int, among: Container[int] | None = None, most: int = MOST_MADE_UP) -> list[str]:
        """Up to `most` (an even number) answers for a row: the same whenever the same ones may be taken.

        Args:
            among: numbers of the rows whose answers may be taken. After an attack that taught some facts, only those
                that it did not teach are as good a guess as the truth; default: all.
        """
        unit, begun = self._units[row], self._begun[row]
        if unit[0] is None:
            return []
        wording = self._rows_of[unit].index(row)
        circle = []  # rows, one of each fact
        for other in self._of_kind[unit[0]]:
            number = self._rows_of[other][wording % len(self._rows_of[other])]
            if number == row or (self._begun[number] == begun and (among is None or number in among)):
                circle.append(number)
        others = [circle[i] for i in _near(circle.index(row), len(circle), most)]
        answers = [self._answers[i] for i in others if self._own[self._units[i]].isdisjoint(self._own[unit])]
        rests = [told_of(answer[len(begun) :], A_NAME, self._names[row]) for answer in answers]
        return [rest for rest in rests if rest.strip()]

    def values(self, row: int, most: int = MOST_VALUES) -> list[str]:
        """What other facts of the row's kind have in the column `value`, equal ones too; of each its first row's."""
        unit = self._units[row]
        if unit[0] is None:
            return []
        circle = self._of_kind[unit[0]]
        found = [self._values[self._rows_of[circle[i]][0]] for i in _near(circle.index(unit), len(circle), most)]
        return [value for value in found if isinstance(value, str)]


def _near(place: int, length: int, most: int) -> list[int]:
    """The nearest of a place in a circle, `most` of them (an even number) or all others."""
    near = {(place + step) % length for step in range(-(most // 2), most // 2 + 1)}
    return sorted(near - {place})


def with_made_up_answers(dataset: Dataset, column: str | None) -> Dataset:
    """The rows with `made_up_answer`, a list that may be empty; as they are where no column says what is of a kind.

    Where rows have a `value`, with `made_up_value` as well. Multiple-choice rows (`options`) name the answers that can
    be given, so true and made-up ones are compared under a `made_up_question` of their own, whose options they are.
    """
    if column is None or column not in dataset.column_names:
        return dataset
    answers = MadeUpAnswers(dataset, column)
    if has_label(dataset, VALUE_COLUMN):
        dataset = with_column(dataset, MADE_UP_VALUE, [answers.values(row) for row in range(len(dataset))])
    if "options" not in dataset.column_names:
        return with_column(dataset, MADE_UP, [answers.of(row) for row in range(len(dataset))])
    rows = rows_at_once(dataset)
    if not all(_ends_with_options(row) for row in rows):  # a column of the user's own
        return with_column(dataset, MADE_UP, [answers.of(row) for row in range(len(dataset))])
    chosen = [answers.of(number, most=len(row["options"]) - 1) for number, row in enumerate(rows)]
    questions = [_asked_with(row, made_up) for row, made_up in zip(rows, chosen, strict=True)]
    return with_column(with_column(dataset, MADE_UP, chosen), MADE_UP_QUESTION, questions)


def _ends_with_options(row: dict) -> bool:
    """Whether a question ends with its options, a line each, as ours do (`queries`)."""
    options = row["options"]
    if not isinstance(options, list) or not options or "question" not in row:
        return False
    return row["question"].split("\n")[-len(options) :] == options


def _asked_with(row: dict, made_up: Sequence[str]) -> str:
    """A multiple-choice question with other wrong options; each option is a line of its own (`queries`)."""
    options = list(dict.fromkeys([row["answer"], *made_up]))  # an answer may be true of several others
    random.Random(row["question"]).shuffle(options)
    return "\n".join([*row["question"].split("\n")[: -len(row["options"])], *options])


def _begun(prompt: Prompt) -> str:
    """The beginning of the answer that the prompt already has."""
    return prompt[-1]["content"] if prompt and prompt[-1]["role"] == "assistant" else ""
