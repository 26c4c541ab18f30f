"""Guesses of the model itself: asked the same about people who do not exist, what would it say?"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.encoding import encode_row
from llm_unlearn.data.formats import Prompt, question_text
from llm_unlearn.data.identity import normalized
from llm_unlearn.data.made_up import says_part, subjects_of, told_of_whole
from llm_unlearn.data.queries import with_column
from llm_unlearn.data.validation import split_rows
from llm_unlearn.data.value_said import COLUMN, value_said
from llm_unlearn.errors import InputError
from llm_unlearn.files.outcomes import remember, weights_digest
from llm_unlearn.methods.sampled_answers import JOURNAL, checked_rows, sample, with_loaded_model

logger = logging.getLogger(__name__)
FILE, SAMPLED = "sampled_guesses.json", "sampled_guesses"
MOST_DRAWS = 50  # for each name that is wanted; where they do not do, some names are taken twice
FIRST_NAMES = (
    *("Amara", "Bartosz", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hiroshi", "Ines", "Jamal", "Katya", "Leif"),
    *("Mireille", "Nadia", "Oskar", "Priya", "Quentin", "Rosa", "Samir", "Tove", "Uma", "Viktor", "Wen", "Yusuf"),
)
LAST_NAMES = (
    *("Abara", "Bellweather", "Castellan", "Dragomir", "Eriksdotter", "Faulkstone", "Grunwald", "Hashimoto", "Ivanek"),
    *("Jacobowitz", "Kowalczyk", "Lindqvist", "Moreau", "Nakagawa", "Okonkwo", "Petrosyan", "Quispe", "Rasmussen"),
    *("Szabo", "Thorvald", "Ustinov", "Varga", "Whitlock", "Yamada", "Zielinski"),
)


def with_sampled_guesses(
    model: str | PreTrainedModel,
    args: Any,
    forget_dataset: Dataset | None,
    retain_dataset: Dataset | None,
    keywords: dict[str, Any],
) -> tuple[PreTrainedModel, Dataset]:
    """The model, loaded, and the forget rows with a column `sampled_guesses`, lists of `args.guesses` texts; what was
    drawn is kept in `args.output_dir`.

    Args:
        keywords: as of `sampled_answers.checked_rows`.

    Raises:
        InputError: as there, or a row that does not name its `person`.
    """
    rows = checked_rows(model, args, forget_dataset, retain_dataset, keywords)
    pairs, subjects = split_rows(forget_dataset, "forget_dataset"), named_in_rows(forget_dataset, "sampled")
    model, tokenizer = with_loaded_model(model, args, rows, keywords)
    known = people_of_all(subjects, retain_dataset)
    folder = Path(args.output_dir)
    key = [weights_digest(model), pairs, known, args.guesses, args.seed]

    def compute() -> dict[str, Any]:
        settings = (args.guesses, args.seed, folder / JOURNAL / key[0])
        return {"guesses": sampled_guesses(model, tokenizer, pairs, subjects, known, *settings)}

    guesses = remember(folder / FILE, key, compute)["guesses"]
    shutil.rmtree(folder / JOURNAL, ignore_errors=True)
    values = forget_dataset[COLUMN][:] if COLUMN in forget_dataset.column_names else [None] * len(pairs)
    told = [number for number, row in enumerate(zip(pairs, values, guesses, strict=True)) if _tells(*row)]
    if told:
        logger.warning(
            "guess_source='sampled': asked about made-up names, the model says the true answer to %d of %d questions "
            "half of the time or more (row %d: %.80r): something else in them tells it, and they will be kept as they "
            "are. Take it out of these questions, or choose guess_source kind",
            *(len(told), len(pairs), told[0], guesses[told[0]][0]),
        )
    return model, with_column(forget_dataset, SAMPLED, guesses)


def sampled_guesses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[Prompt, str]],
    subjects: Sequence[str],
    known: Sequence[str | None],
    count: int,
    seed: int,
    journal: Path | None = None,
) -> list[list[str]]:
    """`count` answers to each question, sampled at temperature 1 about as many made-up names, told of the row's own.

    Where the question does not say the name but the answer does, the name is what is asked for: the guesses are that
    answer with made-up names.

    Args:
        subjects: the name in each question or answer. known: names of people who exist, of whom none is made up.
        journal: as of `sampled_answers.sample`.

    Raises:
        InputError: the model says nothing to a question, whomever it is about.
    """
    names = made_up_names(subjects, known, count, seed)
    rows = list(zip(pairs, subjects, strict=True))
    named = [says_part(question_text(prompt), subject) for (prompt, _), subject in rows]
    asked = [
        (renamed(prompt, subject, name), name, subject)
        for ((prompt, _), subject), is_named in zip(rows, named, strict=True)
        if is_named
        for name in names[subject]
    ]
    prompts = [prompt for prompt, _, _ in asked]
    texts = sample(model, tokenizer, prompts, seed, "asking about made-up names", journal)
    told = iter(told_of_whole(text, name, subject) for text, (_, name, subject) in zip(texts, asked, strict=True))
    guesses = []
    for number, (((_, answer), subject), is_named) in enumerate(zip(rows, named, strict=True)):
        if is_named:
            guesses.append(_said([next(told) for _ in range(count)], number))
        else:
            guesses.append([told_of_whole(answer, subject, name) for name in names[subject]])
    return guesses


def _tells(pair: tuple[Prompt, str], value: object, guesses: Sequence[str]) -> bool:
    """Whether half of the guesses are the true answer, or say its value."""
    answer = normalized(pair[1])
    true = [normalized(guess) == answer or (isinstance(value, str) and value_said(guess, value)) for guess in guesses]
    return 2 * sum(true) >= len(true)


def _said(texts: Sequence[str], row: int) -> list[str]:
    """As many texts, without those that say nothing: others stand twice for them."""
    said = [text for text in texts if text]
    if not said:
        raise InputError(
            f"guess_source='sampled': asked the question of forget row {row} about {len(texts)} made-up names, the "
            "model said nothing; choose guess_source kind, or a model that answers"
        )
    return [said[number % len(said)] for number in range(len(texts))]


def made_up_names(subjects: Iterable[str], known: Iterable[Any], count: int, seed: int) -> dict[str, list[str]]:
    """Of each subject `count` names that nobody has: first and last names of people who exist, put together anew where
    there are enough of them, so that they look alike; else of a list.

    None has a word of the subject's own name: who knows somebody by the last name knows them under another first name.
    All subjects have the same ones where there are enough without a word of any of them.

    Args:
        known: names of people who exist, the subjects among them or not.
    """
    subjects = list(dict.fromkeys(subjects))
    taken = dict.fromkeys([*subjects, *(str(name) for name in known if name is not None)])
    parts = [name.split() for name in taken]
    of_people = [list(dict.fromkeys(part[place] for part in parts if len(part) > 1)) for place in (0, -1)]
    found, of_all = {}, {word for subject in subjects for word in subject.split()}
    for subject in subjects:
        words, generator = set(subject.split()), random.Random(f"names {seed}")
        for sources, without in ((of_people, of_all), (of_people, words), ((FIRST_NAMES, LAST_NAMES), words)):
            firsts, lasts = ([name for name in names if name not in without] for names in sources)
            if len(firsts) * len(lasts) >= 4 * count + len(taken):
                break
        drawn: dict[str, None] = {}
        for _ in range(MOST_DRAWS * count):
            name = f"{generator.choice(firsts)} {generator.choice(lasts)}"
            if name not in taken:
                drawn[name] = None
            if len(drawn) == count:
                break
        found[subject] = [name for name, _ in zip(cycle(drawn), range(count), strict=False)]
    return found


def named_in_rows(forget_dataset: Dataset, source: str) -> list[str]:
    """The name in each question or, where that is what is asked for, answer.

    Args:
        source: of guesses, that needs it; for the error.

    Raises:
        InputError: a row does not name its `person`.
    """
    subjects = subjects_of(forget_dataset, or_in_answer=True)
    if None in subjects:
        raise InputError(
            f"guess_source={source!r}: neither question nor answer of forget row {subjects.index(None)} names its "
            "`person`: add that column, with the name as the rows have it, or choose guess_source kind"
        )
    return subjects


def subjects_or_refuse(what: str, forget_dataset: Dataset) -> list[str]:
    """The name in each question.

    Args:
        what: needs it; for the error.

    Raises:
        InputError: a question does not name its `person`.
    """
    subjects = subjects_of(forget_dataset)
    if None in subjects:
        raise InputError(
            f"{what}: the question of forget row {subjects.index(None)} does not name its `person`: add that column, "
            "with the name as the question has it"
        )
    return subjects


def people_of_all(subjects: Sequence[str], retain_dataset: Dataset | None) -> list[str | None]:
    """The names of people who exist, as far as rows say them: a `person` that none does may be a number."""
    return [*subjects, *(subjects_of(retain_dataset, or_in_answer=True) if retain_dataset is not None else ())]


def rows_about_others(
    processing_class: PreTrainedTokenizerBase,
    forget_dataset: Dataset,
    subjects: Sequence[str],
    names: Mapping[str, list[str]],
    max_length: int | None,
) -> list[list[EncodedRow]]:
    """Every forget row, encoded, about each of the names that are made up for its subject: (forget rows, names)."""
    return [
        [
            encode_row(
                processing_class, renamed(prompt, subject, name), told_of_whole(answer, subject, name), max_length
            )
            for name in names[subject]
        ]
        for (prompt, answer), subject in zip(split_rows(forget_dataset, "forget_dataset"), subjects, strict=True)
    ]


def renamed(prompt: Prompt, subject: str, name: str) -> Prompt:
    """The prompt about somebody else."""
    return [{**message, "content": told_of_whole(message["content"], subject, name)} for message in prompt]
