"""General rows: what protects a model's abilities while it forgets, apart from what judges them.

A model that only has forget and retain rows before it keeps the retained facts, and may lose the rest: to follow an
instruction, to choose among options, to go on from examples. General rows train such abilities. Rows that judge an
ability are never trained on, or nobody could tell an ability that was kept from rows that were learned by heart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from llm_unlearn.data.fictional import World
from llm_unlearn.data.fictional_people import LARGER_SPLITS, names_any
from llm_unlearn.data.identity import question_key
from llm_unlearn.data.instructions import are_instructions, as_questions, rows_of
from llm_unlearn.data.validation import Rows, row_keys, split_rows
from llm_unlearn.errors import InputError

ONE_IN, MOST_JUDGING = 5, 100  # of the user's rows one in five judges, and at most so many

Row = dict[str, Any]


@dataclass(frozen=True)
class FictionalAbilities:
    """What the fictional world has for training and for judging abilities; no row names a forgotten person.

    Retained people are *practiced* or *judged*, in turn: of practiced ones the other ways to ask their facts are
    trained, of judged ones they judge.
    """

    general: list[Row]  # trained: prompt (chat messages), completion; person, attribute and fact_id (None: of nobody)
    chat: list[Row]  # judging: instructions
    queries: dict[str, list[Row]]  # judging: by style, the facts of judged people asked in other ways
    judged_people: list[str]


def fictional_abilities(world: World, retain: str) -> FictionalAbilities:
    """The general rows of a world and what judges beside them.

    Args:
        retain: the split of the retained people.
    """
    people = list(dict.fromkeys(row["person"] for row in world.split(retain)))
    forgotten: set[str] = set()
    if retain in LARGER_SPLITS.values():  # examples are about people whom no split of TOFU's sizes forgets
        forgotten = {row["person"] for row in (*world.splits["retain90"], *world.splits["forget10"])} - {*people}
    practiced, judged = set(people[::2]), people[1::2]
    chat = world.splits["chat"]
    asked = [row for row in world.practice if row["person"] in {*practiced, None} and not names_any(row, forgotten)]
    trained = asked + chat[::2]
    queries = {style: [row for row in rows if row["person"] in judged] for style, rows in world.queries.items()}
    return FictionalAbilities([_in_one_format(row) for row in trained], chat[1::2], queries, judged)


def _in_one_format(row: Row) -> Row:
    """Practice rows are questions or chats, and one data set has one format."""
    prompt = row.get("prompt") or [{"role": "user", "content": row["question"]}]
    labels = {name: row.get(name) for name in ("person", "attribute", "fact_id")}
    return {"prompt": prompt, "completion": row.get("completion") or row["answer"], **labels}


def read_general_data(source: str | Dataset) -> list[Row]:
    """The rows of a file, a hub data set or a Dataset: instructions (Alpaca, Dolly) or any of the row formats.

    Raises:
        InputError: there is no such file or data set, or a file cannot be read.
    """
    name, flag = str(source), "--general_data"
    if isinstance(source, Dataset):
        rows, name = source.to_list(), f"(a Dataset of {len(source)} rows)"
    else:
        rows = rows_of(source, flag)
    return as_questions(rows, name, flag) if rows and are_instructions(rows[0]) else rows


def split_by_content(rows: Rows, name: str) -> tuple[list[Row], list[Row]]:
    """(rows that train, rows that judge): a fifth judges, at most `MOST_JUDGING`, chosen by a hash of what they say.

    So it does not matter in which order a file has its rows, and rows that ask the same are on one side.

    Raises:
        InputError: fewer than five different rows.
    """
    least: dict[tuple, str] = {}  # of the digests of rows that ask the same
    questions = [question_key(*pair) for pair in split_rows(rows, name)]
    for question, key in zip(questions, row_keys(rows, name), strict=True):
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        least[question] = min(digest, least.get(question, digest))
    digests = [least[question] for question in questions]
    different = sorted(set(digests))
    if len(different) < ONE_IN:
        raise InputError(
            f"{name} has fewer than {ONE_IN} different rows ({len(different)}): give more, because one in {ONE_IN} "
            "judges and is not trained on"
        )
    judging = set(different[: min(MOST_JUDGING, len(different) // ONE_IN)])
    return _chosen(rows, digests, set(different) - judging), _chosen(rows, digests, judging)


def _chosen(rows: Rows, digests: list[str], wanted: Collection[str]) -> list[Row]:
    return [dict(row) for row, digest in zip(rows, digests, strict=True) if digest in wanted]
