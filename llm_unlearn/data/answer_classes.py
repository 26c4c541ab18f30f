"""Classes of answers: rows of one kind whose values begin alike, at the token where the model decides which it is.

A model decides about an answer token by token. What "The home is in Lima." says is decided before "Lima", and the class
of the row is that token: whoever lives there shares it. Where all values of a kind begin with the same tokens (books
whose titles begin with "The"), the class is the first token at which they differ.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.encoding import IGNORED, encode_dataset
from llm_unlearn.data.identity import has_label, labels_of
from llm_unlearn.data.made_up import kind_column
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError, excerpt

NO_CLASS = -1
LEAST_ROWS = 2  # of a class: the mean of one row is that row, and shows nothing of what it shares with others
LEAST_RETAINED = 2  # classes of a kind that retain rows have: one alone is no alternative to anything


@dataclass(frozen=True)
class AnswerClasses:
    """The classes that forget and retain rows have, numbered from 0.

    Attributes:
        kinds: of each class the number of its kind. retained: whether any retain row has it.
        labels: "forget" and "retain" -> the number of each row's class; NO_CLASS where a retain row has none.
        places: likewise how many answer tokens stand before the one that decides; 0 where the row has no class.
        rows: likewise each row up to the token that decides, its only answer token.
    """

    kinds: list[int]
    retained: list[bool]
    labels: dict[str, list[int]]
    places: dict[str, list[int]]
    rows: dict[str, list[EncodedRow]]


def answer_classes(
    datasets: dict[str, Dataset],
    encoded: dict[str, Sequence[EncodedRow]],
    processing_class: PreTrainedTokenizerBase,
) -> AnswerClasses:
    """The classes of the kinds that forget rows have; a retain row of another kind, or that shares nothing, has none.

    Args:
        datasets: "forget" and "retain" -> rows with a kind (column `kind`, or `attribute`) and a `value`, a part of the
            answer as it stands there. encoded: the same rows as they are trained.

    Raises:
        InputError: a column is missing; a forget row has no kind or value, its answer does not say the value or was
            cut before it, nobody shares its class, or retain rows have fewer than two classes of its kind.
    """
    column = kind_column(datasets["forget"])
    if column is None:
        raise InputError(
            "classes of answers: no forget row says of what kind its answer is; give rows a column kind (or attribute)"
        )
    for name, rows in datasets.items():
        for needed in (column, "value"):
            if not has_label(rows, needed):
                raise InputError(
                    f"classes of answers: no {name} row has {needed!r}; give forget and retain rows that column "
                    "(value: the part of the answer that is asked for, as it stands there)"
                )
    kinds = {name: labels_of(rows, column) for name, rows in datasets.items()}
    starts = {name: _value_starts(rows, encoded[name], processing_class) for name, rows in datasets.items()}
    _refuse_forget_rows_without_value(datasets["forget"], column, starts["forget"], encoded["forget"])
    alike = _tokens_alike(kinds, starts, encoded)
    forgotten = set(kinds["forget"])
    keys: dict[str, list[tuple[Hashable, int] | None]] = {}
    for name, rows in encoded.items():
        keys[name] = [None] * len(rows)
        for number, (kind, start, row) in enumerate(zip(kinds[name], starts[name], rows, strict=True)):
            if kind in forgotten and start is not None and start + alike[kind] < len(row["input_ids"]):
                keys[name][number] = (kind, row["input_ids"][start + alike[kind]])
    counts = Counter(key for found in keys.values() for key in found)
    classes = [key for key, count in counts.items() if key is not None and count >= LEAST_ROWS]
    held = set(keys["retain"])
    _refuse_what_nobody_shares(datasets["forget"], column, keys["forget"], counts, [c for c in classes if c in held])
    numbers = {key: number for number, key in enumerate(classes)}
    order = list(dict.fromkeys(kind for kind, _ in classes))
    places: dict[str, list[int]] = {}
    rows_to_there: dict[str, list[EncodedRow]] = {}
    for name, found in keys.items():
        begins = [_answer_start(row) for row in encoded[name]]
        decide = [starts[name][row] + alike[key[0]] if key in numbers else begins[row] for row, key in enumerate(found)]
        places[name] = [position - begin for position, begin in zip(decide, begins, strict=True)]
        rows_to_there[name] = [_cut(row, position) for row, position in zip(encoded[name], decide, strict=True)]
    return AnswerClasses(
        kinds=[order.index(kind) for kind, _ in classes],
        retained=[key in held for key in classes],
        labels={name: [numbers.get(key, NO_CLASS) for key in found] for name, found in keys.items()},
        places=places,
        rows=rows_to_there,
    )


def _value_starts(
    dataset: Dataset, rows: Sequence[EncodedRow], processing_class: PreTrainedTokenizerBase
) -> list[int | None]:
    """The place of each row's first token that has a part of its value; None where the answer does not say it."""
    begun: dict[int, dict] = {}
    values = labels_of(dataset, "value")
    for number, ((prompt, answer), value) in enumerate(zip(split_rows(dataset, "rows"), values, strict=True)):
        answer = answer.strip()
        start = -1 if value is None else answer.find(str(value))
        if start >= 0 and prompt and prompt[-1]["role"] == "user":
            end = len(answer[:start].rstrip())  # the space belongs to the token of the word behind it
            beginning = [{"role": "assistant", "content": answer[:end]}] if end else []
            begun[number] = {"prompt": [*prompt, *beginning], "completion": answer[end:]}
    starts: list[int | None] = [None] * len(rows)
    if begun:
        contexts = encode_dataset([*begun.values()], processing_class, None, "rows")
        for number, context in zip(begun, contexts, strict=True):
            pairs = zip(context["input_ids"][: _answer_start(context)], rows[number]["input_ids"], strict=False)
            same = len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])  # a token may reach across the border
            start = max(same, _answer_start(rows[number]))
            starts[number] = start if start < len(rows[number]["input_ids"]) else None
    return starts


def _answer_start(row: EncodedRow) -> int:
    return next(place for place, label in enumerate(row["labels"]) if label != IGNORED)


def _cut(row: EncodedRow, position: int) -> EncodedRow:
    ids = row["input_ids"][: position + 1]
    return {"input_ids": ids, "labels": [IGNORED] * position + ids[position:]}


def _tokens_alike(
    kinds: dict[str, list], starts: dict[str, list[int | None]], encoded: dict[str, Sequence[EncodedRow]]
) -> dict[Hashable, int]:
    """Kind -> with how many tokens all of its values begin alike."""
    values: dict[Hashable, list[list[int]]] = defaultdict(list)
    for name, rows in encoded.items():
        for kind, start, row in zip(kinds[name], starts[name], rows, strict=True):
            if kind is not None and start is not None:
                values[kind].append(row["input_ids"][start:])
    return {
        kind: len([*takewhile(lambda tokens: len(set(tokens)) == 1, zip(*found, strict=False))])
        for kind, found in values.items()
    }


def _refuse_forget_rows_without_value(
    rows: Dataset, column: str, starts: Sequence[int | None], encoded: Sequence[EncodedRow]
) -> None:
    labels = zip(labels_of(rows, column), labels_of(rows, "value"), starts, strict=True)
    for number, (kind, value, start) in enumerate(labels):
        if kind is None or value is None:
            missing = column if kind is None else "value"
            raise InputError(
                f"classes of answers: forget row {number} has no {missing!r}; give it one, or leave it out"
            )
        if start is None:
            raise InputError(
                f"classes of answers: forget row {number} has value={excerpt(value)}, which its answer lacks within "
                f"{len(encoded[number]['input_ids'])} tokens; give a part of the answer, raise max_length "
                "if the row was cut, or leave the row out"
            )


def _refuse_what_nobody_shares(
    rows: Dataset, column: str, keys: Sequence[tuple | None], counts: Counter, retained: Sequence[tuple]
) -> None:
    of_kind = Counter(kind for kind, _ in retained)
    kinds, values = labels_of(rows, column), labels_of(rows, "value")
    for number, (key, kind, value) in enumerate(zip(keys, kinds, values, strict=True)):
        if of_kind[kind] < LEAST_RETAINED:
            raise InputError(
                f"classes of answers: forget row {number} has {column}={excerpt(kind)}, of which retain rows have too "
                f"few classes that {LEAST_ROWS} rows share ({of_kind[kind]}; {LEAST_RETAINED} are needed); add retain "
                "rows of that kind whose values are shared, or leave the row out"
            )
        if key is None or counts[key] < LEAST_ROWS:
            raise InputError(
                f"classes of answers: forget row {number} has value={excerpt(value)}, with which no other row's value "
                "begins, so that its class would have a single row; add rows with that value (other wordings of the "
                "question, or other people who have it), or leave the row out"
            )
