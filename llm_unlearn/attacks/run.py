"""One attack on one model, from the data sets as they were loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.attacks.adapter_surgery import adapter_surgery
from llm_unlearn.attacks.decoding import decoding
from llm_unlearn.attacks.prompting import prompting
from llm_unlearn.attacks.quantization import quantization
from llm_unlearn.attacks.relearning import (
    AttackBudget,
    MadeUpRows,
    adversarial_reinjection,
    benign_relearning,
    leave_one_group_out,
    retain_relearning,
)
from llm_unlearn.data import UnlearningData, encode_dataset, row_format, split_row
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.data.made_up import MOST_MADE_UP, MadeUpAnswers
from llm_unlearn.data.unlearning_data import units_of
from llm_unlearn.errors import InputError
from llm_unlearn.models.scoring import generate_answers

RELEARNING_ATTACKS = ("adversarial_reinjection", "benign_relearning", "retain_relearning", "leave_one_group_out")
DIRECT_ATTACKS = ("quantization", "adapter_surgery", "decoding", "prompting")  # those that train nothing
ATTACKS = RELEARNING_ATTACKS + DIRECT_ATTACKS
SAMPLE_TOKENS = 64  # of a sample text
RETAINED_MADE_UP = 2  # made-up answers of a retained row: there are many rows, and every point of the curve scores them


def run_attack(
    attack: str,
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    data: UnlearningData,
    budget: AttackBudget,
    *,
    instructions: Dataset | None = None,
    retain_rows: int = 100,
    max_length: int | None = None,
    title: str | None = None,
    pool: Sequence[int] | None = None,
    group_column: str | None = None,
    kinds: str | None = None,
) -> dict:
    """Attack `model`, which stays as it is.

    Args:
        attack: one of `ATTACKS`.
        budget: of relearning; the direct attacks spend nothing.
        instructions: rows of benign tuning.
        retain_rows: at least this many retain rows (and fewer than twice as many), evenly spread, are scored along the
            curve; without a retain set there are no retain scores.
        pool: numbers of the forget rows that take part in reinjection; by default all.
        group_column: of the forget rows: whose values are left out in turn (see `groups_of`).
        kinds: column that says which answers are of a kind: true ones are compared with made-up ones, too (knowledge).

    Returns:
        Of `RELEARNING_ATTACKS` what `curves.summarize_runs` returns, sample texts included, and "retain_units", the
        number of the person that each retain row scored along the curve is about; of `DIRECT_ATTACKS`
        {"variants": {name: scores}}, with further keys that each describes.

    Raises:
        InputError: the data is not enough for this attack.
    """

    def encoded(dataset: Dataset | None, name: str):
        return encode_dataset(dataset, processing_class, max_length, name) if dataset is not None else []

    title = title or attack.replace("_", " ")
    forget = encoded(data.forget, "forget set")
    retain, retained = [], None
    if data.retain is not None:
        retained = data.retain.select(range(0, len(data.retain), max(1, len(data.retain) // retain_rows)))
        retain = encoded(retained, "retain set")
    made_up = None
    if kinds is not None:
        made_up = MadeUpRows(
            _made_up(data.forget, kinds, processing_class, max_length),
            _made_up(retained, kinds, processing_class, max_length, RETAINED_MADE_UP)(range(len(retain)))
            if retain
            else (),
        )

    def answer(attacked: PreTrainedModel, numbers: list[int]) -> list[str]:
        prompts = [_prompt_of(forget[i]) for i in numbers]
        return generate_answers(attacked, processing_class, prompts, max_new_tokens=SAMPLE_TOKENS)

    beside = {"answer": answer, "made_up": made_up}
    units = {"retain_units": units_of(retained)} if retained is not None else {}
    match attack:
        case "adversarial_reinjection":
            facts = fact_ids_of(data)
            return adversarial_reinjection(model, forget, retain, budget, facts, title, pool=pool, **beside) | units
        case "leave_one_group_out":
            groups = groups_of(data, group_column)
            return leave_one_group_out(model, forget, retain, budget, groups, title, **beside) | units
        case "benign_relearning":
            tuning = encoded(instructions, "instructions")
            return benign_relearning(model, tuning, forget, retain, budget, title, **beside) | units
        case "retain_relearning":
            tuning = encoded(data.retain, "retain set")
            return retain_relearning(model, tuning, forget, retain, budget, title, **beside) | units
        case "quantization":
            return quantization(model, forget, retain, made_up.forget(range(len(forget))) if made_up else ())
        case "adapter_surgery":
            return adapter_surgery(model, forget, retain, made_up.forget(range(len(forget))) if made_up else ())
        case "decoding":
            return decoding(model, forget)
        case "prompting":
            return prompting(model, processing_class, data, max_length, kinds)
    raise InputError(f"attack={attack!r} is unknown: choose from {', '.join(ATTACKS)}")


def _made_up(
    dataset: Dataset,
    kinds: str,
    processing_class: PreTrainedTokenizerBase,
    max_length: int | None,
    most: int = MOST_MADE_UP,
) -> Callable[[Sequence[int]], list[list[EncodedRow]]]:
    """Numbers of rows -> the encoded made-up answers of each, all of them true of one of these rows."""
    if kinds not in dataset.column_names:
        return lambda numbers: []
    answers = MadeUpAnswers(dataset, kinds)
    form = row_format(dataset.column_names)

    def of(numbers: Sequence[int]) -> list[list[EncodedRow]]:
        among = set(numbers)
        found = [answers.of(number, among, most) for number in numbers]
        rows = [
            {"prompt": split_row(dataset[number], form)[0], "completion": text}
            for number, texts in zip(numbers, found, strict=True)
            for text in texts
        ]
        encoded = iter(encode_dataset(rows, processing_class, max_length, "made-up answers") if rows else [])
        return [[next(encoded) for _ in texts] for texts in found]

    return of


def _prompt_of(row: EncodedRow) -> list[int]:
    """The tokens before the answer."""
    return row["input_ids"][: next(i for i, label in enumerate(row["labels"]) if label != IGNORED)]


def fact_ids_of(data: UnlearningData) -> list[str | int] | None:
    """The fact of each forget row, or None where rows carry no `fact_id`: then every row is its own fact."""
    return list(data.forget["fact_id"]) if "fact_id" in data.forget.column_names else None


def groups_of(data: UnlearningData, column: str | None = None) -> list[str | int]:
    """The group of each forget row: its value in `column`, by default its person if there are several, else its fact.

    Raises:
        InputError: no such column.
    """
    columns = data.forget.column_names
    if column is not None and column not in columns:
        raise InputError(
            f"leave_out_column={column!r} is no column of the forget rows: choose from {', '.join(columns)}"
        )
    if column is None and "person" in columns and len(set(data.forget["person"])) > 1:
        column = "person"
    return list(data.forget[column]) if column else fact_ids_of(data) or list(range(len(data.forget)))
