"""`llm-unlearn run own_text`: general data that the model writes itself, without a word about whom it is to forget."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from tqdm.auto import tqdm

from llm_unlearn.arguments.groups import DataArguments, parse_for_model
from llm_unlearn.arguments.parsing import arguments_to_dict
from llm_unlearn.arguments.ranges import COUNT, SEED, check_ranges
from llm_unlearn.data import UnlearningData
from llm_unlearn.data.formats import question_text
from llm_unlearn.data.identity import normalized, people_of, question_key
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError
from llm_unlearn.files.disk import check_writable
from llm_unlearn.files.whole import write_whole
from llm_unlearn.models.own_text import greedy_answers, opened_turn, sampled_questions
from llm_unlearn.runs.recipe import prepare_process

TRIES = 10  # questions for each row that is wanted, at most
SHORTEST_NAME = 4  # letters of a part of a name that gives a person away; shorter ones ("van", "Lee") are also words
WORDS = {  # why a text is not taken
    "empty": "said nothing or did not end",
    "named": "named somebody who is to be forgotten",
    "asked": "asked what a forget or retain row asks",
    "twice": "asked the same again",
}

Row = dict[str, str]


@dataclass
class OwnTextArguments(DataArguments):
    """Which model writes how much; `model_name_or_path` is the original."""

    rows: int = field(default=200, metadata={"help": "Rows to write; a fifth of them judge where they are used."})
    max_question_tokens: int = field(default=64, metadata={"help": "Longer questions are not taken."})
    max_answer_tokens: int = field(default=128, metadata={"help": "Longer answers are not taken."})
    batch_size: int = field(default=32, metadata={"help": "Questions that are sampled at once."})
    seed: int = field(default=0, metadata={"help": "Of what is sampled."})
    device: str = field(
        default="cuda" if torch.cuda.is_available() else "cpu", metadata={"help": "Where the model runs."}
    )
    output_file: str = field(
        default="outputs/own_text.jsonl", metadata={"help": "The rows: JSON lines with question and answer."}
    )

    def __post_init__(self):
        counts = ("rows", "max_question_tokens", "max_answer_tokens", "batch_size")
        check_ranges(self, dict.fromkeys(counts, COUNT) | {"seed": SEED})


def own_text(description: str, argv: Sequence[str] | None = None) -> list[Row]:
    """Let the original write rows, and write them to `output_file`; returns them.

    Raises:
        InputError: bad arguments, or a model that writes too little that can be taken.
    """
    prepare_process()
    (arguments,) = parse_for_model(
        (OwnTextArguments,), argv, description=description, defaults={}, embedded_defaults={}
    )
    output, console = Path(arguments.output_file), Console(highlight=False)
    if output.is_dir():
        raise InputError(f"output_file={str(output)!r} is a folder; give the name of a file in it")
    check_writable(output.parent, "output_file")
    data = arguments.load_data()
    if arguments.dry_run:
        console.print(yaml.safe_dump(arguments_to_dict(arguments), sort_keys=False), markup=False)
        console.print(f"{data.source}: nobody of {len(forgotten(data))} people may be named", markup=False)
        return []
    if not forgotten(data):
        words = "No forget row says the name that is in its column `person`: what is written may speak of those people"
        console.print(f"{words}; fill that column with names as rows say them", markup=False)
    path, _ = arguments.model_paths()
    model, processing_class = arguments.load_model(path, device=arguments.device), arguments.load_tokenizer(path)
    rows, refused = written_rows(model, processing_class, data, arguments)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, [json.dumps(row, ensure_ascii=False) + "\n" for row in rows])
    for row in rows[:3]:
        console.print(f"  {row['question']!r}\n    {row['answer']!r}", markup=False, soft_wrap=True)
    left_out = ", ".join(f"{count} {WORDS[why]}" for why, count in refused.items()) or "none"
    console.print(f"{len(rows)} rows in {output}; left out: {left_out}", markup=False, soft_wrap=True)
    flags = f"--general_data {output} --general_loss kl"
    console.print(f"Keep the model close to itself on them: {flags}", markup=False, soft_wrap=True)
    return rows


def written_rows(
    model: Any, processing_class: Any, data: UnlearningData, arguments: OwnTextArguments
) -> tuple[list[Row], Counter[str]]:
    """The rows, and how many texts were left out for which reason of `WORDS`.

    Raises:
        InputError: fewer than wanted came out of `TRIES` questions for each.
    """
    opened_turn(processing_class)
    forbidden, sets = names_of(forgotten(data)), [rows for rows in (data.forget, data.retain) if rows is not None]
    asked = {question_key(*pair) for rows in sets for pair in split_rows(rows, "rows")}
    rows: list[Row] = []
    seen: set[str] = set()
    refused: Counter[str] = Counter()
    devices = [model.device] if model.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        tqdm(total=arguments.rows, desc="writing", unit="row", dynamic_ncols=True) as progress,
    ):
        torch.manual_seed(arguments.seed)
        for _ in range(-(-TRIES * arguments.rows // arguments.batch_size)):
            taken = []
            for question in sampled_questions(
                model, processing_class, arguments.batch_size, arguments.max_question_tokens
            ):
                why = _refused(question, forbidden, asked, seen)
                seen.add(normalized(question))
                refused.update([why] if why else [])
                taken += [] if why else [question]
            answers = greedy_answers(model, processing_class, taken, arguments.max_answer_tokens)
            for question, answer in zip(taken, answers, strict=True):
                why = "empty" if not answer else "named" if forbidden.search(normalized(answer)) else None
                refused.update([why] if why else [])
                rows += [] if why else [{"question": question, "answer": answer}]
            progress.update(min(len(rows), arguments.rows) - progress.n)
            if len(rows) >= arguments.rows:
                return rows[: arguments.rows], refused
    found = ", ".join(f"{count} {WORDS[why]}" for why, count in refused.items())
    raise InputError(
        f"rows={arguments.rows}: the model wrote {len(rows)} that can be taken ({found}); ask for fewer, raise "
        "max_question_tokens or max_answer_tokens, or give general data of your own"
    )


def _refused(question: str, forbidden: re.Pattern, asked: Collection[Any], seen: Collection[str]) -> str | None:
    if not question:
        return "empty"
    if forbidden.search(normalized(question)):
        return "named"
    if question_key([{"role": "user", "content": question}], "") in asked:
        return "asked"
    return "twice" if normalized(question) in seen else None


def forgotten(data: UnlearningData) -> set[str]:
    """The names of those who are to be forgotten, as rows give them.

    A name that none of its own rows says is none ("author 180"): texts about that person cannot be told.
    """
    found = set()
    for person, (prompt, answer) in zip(people_of(data.forget), split_rows(data.forget, "forget set"), strict=True):
        if person is not None and normalized(str(person)) in normalized(f"{question_text(prompt)} {answer}"):
            found.add(str(person))
    return found


def names_of(people: Collection[str]) -> re.Pattern[str]:
    """Finds in a `normalized` text the whole name of any of these people, or a word of it of four letters or more.

    Whole words alone ("Ann" is not in "annapolis"), but where a script has no small letters: such may have no spaces.
    """
    found = set()
    for person in map(normalized, people):
        for name in {person, *(word for word in re.findall(r"\w+", person) if len(word) >= SHORTEST_NAME)}:
            has_case = any(letter.lower() != letter.upper() for letter in name)
            found.add(rf"(?<!\w){re.escape(name)}(?!\w)" if has_case else re.escape(name))
    return re.compile("|".join(sorted(found)) if found else r"(?!)")
