"""`Attack`: all that commands, tables and cards need to know of an attack; `Target`: what one is run with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.attacks.relearning import AttackBudget, MadeUpRows
from llm_unlearn.data import UnlearningData, encode_dataset, row_format, split_row
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.data.identity import facts_of, first_rows, has_several, labels_of, named, people_of, units_of
from llm_unlearn.data.made_up import MOST_MADE_UP, MadeUpAnswers
from llm_unlearn.errors import InputError
from llm_unlearn.models.loading import limited_positions
from llm_unlearn.models.scoring import generate_answers

SAMPLE_TOKENS = 64  # of a sample text
RETAINED_MADE_UP = 2  # made-up answers of a retained row: there are many rows, and every point of the curve scores them


@dataclass(frozen=True)
class Attack:
    """One attack, a file with its record.

    Attributes:
        name: on the command line and in results.
        summary: what it does, in a few words, written out in the record (lists read it without importing it).
        title, label: of a figure, and in a table; heading: of a table's column, by default "after " and the label.
        on_card: what a model card says that it does; `{share}` is the share of facts that are reinjected.
        run: returns, of an attack that trains, what `curves.summarize_runs` returns, and "retain_units", the number of
            the person that each retain row scored along the curve is about; of others {"variants": {name: scores}},
            with further keys that each describes.
        check: refuses data that is not enough, before anything is trained; of a target without a model.
        times: so many times the steps of the others: what it finds, it finds late.
        rates: whose learning rates it tries, "reinjection" or "benign"; None: it trains nothing.
        taught: of an attack that teaches forget rows, the numbers of those that each of its runs teaches and scores;
            None: it teaches none and scores all of them.
        needs: what decides its outcome beside model, rows and budget: "pool" (of rows that take part), "groups" (the
            column that is left out by), "instructions", "holdout", "adapter" (whether the model has one).
    """

    name: str
    summary: str
    title: str
    label: str
    on_card: str
    run: Callable[[Target], dict]
    check: Callable[[Target], None] = lambda _target: None
    rates: str | None = None
    times: int = 1
    taught: Callable[[Target], Sequence[tuple[Sequence[int], Sequence[int]]]] | None = None
    needs: tuple[str, ...] = ()
    heading: str = ""

    @property
    def trains(self) -> bool:
        """Whether it fine-tunes copies of the model."""
        return self.rates is not None


@dataclass
class Target:
    """A model under attack, which stays as it is, and what attacks take.

    Attributes:
        budget: of relearning.
        instructions: rows of benign tuning.
        retain_rows: at least this many retain rows (and fewer than twice as many), evenly spread, are scored along the
            curve; without a retain set there are no retain scores.
        pool: numbers of the forget rows that take part in reinjection; by default all.
        group_column: of the forget rows: whose values are left out in turn (see `groups_of`).
        kinds: column that says which answers are of a kind: true ones are compared with made-up ones, too (knowledge).
        title: of the progress bar.
        generation_config: by which samples of answers are generated, "own" or "model" (see `models.generation`).
    """

    model: PreTrainedModel | None
    processing_class: PreTrainedTokenizerBase
    data: UnlearningData
    budget: AttackBudget | None
    instructions: Dataset | None = None
    retain_rows: int = 100
    max_length: int | None = None
    title: str = ""
    pool: Sequence[int] | None = None
    group_column: str | None = None
    kinds: str | None = None
    generation_config: str = "own"

    @cached_property
    def forget(self) -> list[EncodedRow]:
        """The encoded forget rows."""
        return self.encoded(self.data.forget, "forget set")

    @cached_property
    def retained(self) -> Dataset | None:
        """The retain rows that are scored along curves."""
        retain = self.data.retain
        return retain and retain.select(range(0, len(retain), max(1, len(retain) // self.retain_rows)))

    @cached_property
    def retain(self) -> list[EncodedRow]:
        """The same, encoded; [] where there is no retain set."""
        return self.encoded(self.retained, "retain set")

    @cached_property
    def made_up(self) -> MadeUpRows | None:
        """Made-up answers beside the true ones, where answers are of kinds."""
        if self.kinds is None:
            return None
        retain = self._made_up(self.retained, RETAINED_MADE_UP)(range(len(self.retain))) if self.retain else ()
        return MadeUpRows(self._made_up(self.data.forget), retain)

    @property
    def made_up_of_all(self) -> Sequence[Sequence[EncodedRow]]:
        """The made-up answers of every forget row, for attacks that teach none of them."""
        return self.made_up.forget(range(len(self.forget))) if self.made_up else ()

    @property
    def beside(self) -> dict[str, Any]:
        """What the relearning attacks take beside rows and budget."""
        return {"answer": self.answer, "made_up": self.made_up}

    @property
    def units(self) -> dict[str, list[int]]:
        """The number of the person that each retain row scored along the curve is about."""
        return {"retain_units": units_of(self.retained)} if self.retained is not None else {}

    @property
    def fact_ids(self) -> list[str | int]:
        """The fact of each forget row."""
        return facts_of(self.data.forget)

    @property
    def groups(self) -> list[str | int]:
        """The group of each forget row."""
        return groups_of(self.data, self.group_column)

    def encoded(self, dataset: Dataset | None, name: str) -> list[EncodedRow]:
        """A data set as the model sees it; [] where there is none."""
        return encode_dataset(dataset, self.processing_class, self.max_length, name) if dataset is not None else []

    def answer(self, attacked: PreTrainedModel, numbers: list[int]) -> list[str]:
        """What an attacked copy says to some of the forget questions, as far as its positions go."""
        prompts = [prompt_of(self.forget[i]) for i in numbers]
        positions, room = limited_positions(attacked), SAMPLE_TOKENS
        if positions is not None:
            room = min(room, positions - max(map(len, prompts)) + 1)  # the last token is not read again
        return generate_answers(
            attacked, self.processing_class, prompts, room, generation_config=self.generation_config
        )

    def _made_up(self, dataset: Dataset, most: int = MOST_MADE_UP) -> Callable[[Sequence[int]], list[list[EncodedRow]]]:
        """Numbers of rows -> the encoded made-up answers of each, all of them true of one of these rows."""
        if self.kinds not in dataset.column_names:
            return lambda numbers: []
        answers = MadeUpAnswers(dataset, self.kinds)
        form = row_format(dataset.column_names)

        def of(numbers: Sequence[int]) -> list[list[EncodedRow]]:
            among = set(numbers)
            found = [answers.of(number, among, most) for number in numbers]
            rows = [
                {"prompt": split_row(dataset[number], form)[0], "completion": text}
                for number, texts in zip(numbers, found, strict=True)
                for text in texts
            ]
            encoded = iter(self.encoded(rows, "made-up answers") if rows else [])
            return [[next(encoded) for _ in texts] for texts in found]

        return of


def prompt_of(row: EncodedRow) -> list[int]:
    """The tokens before the answer."""
    return row["input_ids"][: next(i for i, label in enumerate(row["labels"]) if label != IGNORED)]


def groups_of(data: UnlearningData, column: str | None = None) -> list[str | int]:
    """The group of each forget row: its value in `column`, by default its person if there are several, else its fact.

    Rows without a value in the column are grouped by fact, too.

    Raises:
        InputError: no such column.
    """
    columns = data.forget.column_names
    if column is not None and column not in columns:
        raise InputError(
            f"leave_out_column={column!r} is no column of the forget rows: choose from {', '.join(columns)}"
        )
    if column is None and has_several(people_of(data.forget)):
        column = "person"
    facts = facts_of(data.forget)
    if column in (None, "fact_id"):
        return facts
    return named(labels_of(data.forget, column), first_rows(facts))
