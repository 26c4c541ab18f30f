"""`load_unlearning_data`: forget, retain, holdout and evaluation sets from wherever the user has them, validated."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from llm_unlearn.data.fictional import build_world
from llm_unlearn.data.fictional_people import LARGER_SPLITS
from llm_unlearn.data.fictional_sentences import SENTENCES, with_subjects
from llm_unlearn.data.formats import FILE_SUFFIXES, read_rows
from llm_unlearn.data.forms import TRANSPOSED, build_forms
from llm_unlearn.data.general import fictional_abilities, read_general_data, split_by_content
from llm_unlearn.data.hub_lookup import check_on_hub
from llm_unlearn.data.identity import label
from llm_unlearn.data.unlearning_data import UnlearningData
from llm_unlearn.data.validation import (
    LABELS,
    Rows,
    validate_apart,
    validate_asked_apart,
    validate_forget_retain,
    validate_rows,
)
from llm_unlearn.errors import InputError, excerpt

RETAIN_OF_FORGET = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
DEFAULT_FORGET_SPLIT = "forget10"
TOFU_EVALUATION = {  # name -> file or config; without the perturbed answers there is no truth ratio
    "real_authors": "real_authors_perturbed",
    "world_facts": "world_facts_perturbed",
    "retain_perturbed": "retain_perturbed",
}
ROWS_OF_AUTHOR, AUTHORS = 20, 200  # of TOFU's `full`, whose parts the forget and retain splits are
ACCEPTED_DATA = (
    "'fictional', 'fictional:tiny|small|medium|smollm2' (or 'fictional:small-repetition' and others, whose people "
    "differ), 'locuslab/TOFU' or another hub id with its configs, "
    "a folder with TOFU's files, or a file"
)

Source = str | os.PathLike | Dataset
Reader = Callable[[str, bool], list[dict] | None]  # (split, required) -> rows; None: not there and not required


def load_unlearning_data(
    spec: Source | tuple[Dataset, Dataset | None] | None = None,
    *,
    forget_split: str | None = None,
    retain_split: str | None = None,
    forget_file: Source | None = None,
    retain_file: Source | None = None,
    general_data: Source | None = None,
    general_file: Source | None = None,
    near_duplicates: str = "refuse",
    augment_forms: Sequence[str] | None = None,
    augment_attributes: Sequence[str] | None = None,
) -> UnlearningData:
    """Load and validate the data of an unlearning task.

    Args:
        spec: "fictional" (the default) or "fictional:tiny", ":small", ":medium", ":smollm2"; "locuslab/TOFU" or another
            hub id with TOFU's configs; a local folder with TOFU's files (`forget10.json`, ...: JSON arrays or JSON
            lines); a file or Dataset with forget rows only; or a (forget, retain) tuple of Datasets.
        forget_split: forget01, forget05 or forget10 (the default), of the fictional world or of TOFU; of the former
            forget20 or forget50, too.
        retain_split: retain90, retain95 or retain99 (or retain80, retain50); default: the complement of `forget_split`.
        forget_file: forget rows instead of `spec`: a Dataset, or the path of a .json (array or lines), .jsonl, .csv or
            .parquet file.
        retain_file: retain rows that go with `forget_file`, in the same forms.
        general_data: rows that protect abilities in training: "embedded" (of the fictional world, its default), "none"
            (the default elsewhere), or a file, a hub id or a Dataset with instructions (Alpaca's or Dolly's columns) or
            rows like those to forget. Of these a fifth is not trained on but judges, as evaluation["general_data"].
        general_file: rows that judge what a model knows besides, as evaluation["general"], in the forms of
            `forget_file`; they are not trained on.
        near_duplicates: "refuse", or "allow": what forget rows ask (`identity.question_key`) may be asked in the other
            sets, too, with another answer.
        augment_forms: of `forms.FORM_NAMES`: forget and retained facts are trained in these forms, too.
        augment_attributes: those that are; default: every second one of each form, so that the others can judge it.

    Returns:
        TOFU's and the fictional world's forget rows also have `paraphrased_question`, `paraphrased_answer` and
        `perturbed_answer` (a list); TOFU's only where the perturbed file is there. Both worlds' forget and retain rows
        name a `person`, without which no interval could be drawn over people; TOFU's as "author 180", by the author's
        place in `full`, and only in splits with TOFU's own number of rows.

    Raises:
        InputError: the data cannot be found or read, arguments exclude each other, a set is empty, a text is missing or
            blank, a row is in two sets that exclude each other (forget and any other, or what is trained on and what
            judges abilities), or a question of the forget rows is in another set.
    """
    data = read_unlearning_data(
        spec, forget_split=forget_split, retain_split=retain_split, forget_file=forget_file, retain_file=retain_file
    )
    validate_forget_retain(data.forget, data.retain, near_duplicates)
    data = _with_general_data(data, general_data, near_duplicates)
    data = data if general_file is None else _with_general_file(data, general_file, near_duplicates)
    return with_trained_forms(data, augment_forms, augment_attributes)


def read_unlearning_data(
    spec: Source | tuple[Dataset, Dataset | None] | None = None,
    *,
    forget_split: str | None = None,
    retain_split: str | None = None,
    forget_file: Source | None = None,
    retain_file: Source | None = None,
) -> UnlearningData:
    """As `load_unlearning_data`, each set for itself: rows may be in two sets, whose conflicts are to be listed.

    Raises:
        InputError: as there, but for what is in two sets.
    """
    if forget_file is not None or retain_file is not None:
        if spec is not None:
            raise InputError(f"give either --data or --forget_file and --retain_file, not both (data is {spec!r})")
        if forget_file is None:
            raise InputError("retain_file is given but forget_file is not; give the rows to forget as forget_file")
        spec = (forget_file, retain_file)
    elif isinstance(spec, Dataset):
        spec = (spec, None)
    if isinstance(spec, tuple) and len(spec) == 2:
        return _user_rows(*spec, forget_split, retain_split)
    if not isinstance(spec, (str, os.PathLike, type(None))):
        raise InputError(f"data is a {type(spec).__name__}; give a Dataset, (forget, retain) Datasets, {ACCEPTED_DATA}")

    spec = "fictional" if spec is None else os.fspath(spec)
    path = Path(spec).expanduser()
    if spec.partition(":")[0] == "fictional":
        return _fictional(spec, forget_split, retain_split)
    if path.is_dir():
        return _tofu(spec, _folder_reader(path), forget_split, retain_split)
    if path.is_file():
        return _user_rows(path, None, forget_split, retain_split)
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", spec) and path.suffix not in FILE_SUFFIXES:
        return _tofu(spec, _hub_reader(spec), forget_split, retain_split)
    if os.sep in spec or path.suffix in FILE_SUFFIXES:
        raise InputError(f"data {spec!r} does not exist (looked for {path.absolute()}); accepted are {ACCEPTED_DATA}")
    raise InputError(f"data {spec!r} is unknown{_did_you_mean(spec, ['fictional'])}; accepted are {ACCEPTED_DATA}")


def _fictional(spec: str, forget_split: str | None, retain_split: str | None) -> UnlearningData:
    size = spec.partition(":")[2] if ":" in spec else "small"
    world = build_world(size)
    splits = world.splits
    forget, retain = _choose_splits(forget_split, retain_split, RETAIN_OF_FORGET | LARGER_SPLITS)
    forgotten = {row["fact_id"] for row in world.split(forget)}
    queries = {style: [row for row in rows if row["fact_id"] in forgotten] for style, rows in world.queries.items()}
    abilities = fictional_abilities(world, retain)
    general = with_subjects(splits["general"]) if size == SENTENCES else splits["general"]
    data = _checked(
        forget=world.split(forget),
        retain=world.split(retain),
        holdout=splits["holdout"],
        evaluation={"general": general, "instructions": splits["instructions"], "chat": abilities.chat},
        source=f"{spec} ({forget}, {retain})",
        queries=queries,
    )
    return replace(
        data,
        general=_dataset(abilities.general, "general rows"),
        retain_queries={style: _dataset(rows, f"retained {style}") for style, rows in abilities.queries.items()},
        judged_people=abilities.judged_people,
    )


def _tofu(spec: str, read: Reader, forget_split: str | None, retain_split: str | None) -> UnlearningData:
    forget, retain = _choose_splits(forget_split, retain_split)
    plain_rows, retain_rows = read(forget, True), read(retain, True)
    perturbed_rows = read(f"{forget}_perturbed", False)
    if perturbed_rows is not None:
        _check_alignment(plain_rows, perturbed_rows, forget)
    evaluation = {name: read(file, False) for name, file in TOFU_EVALUATION.items()}
    return _checked(
        forget=_with_authors(perturbed_rows or plain_rows, forget),  # perturbed: the plain rows with more columns
        retain=_with_authors(retain_rows, retain),
        holdout=read(forget.replace("forget", "holdout"), False),
        evaluation={name: rows for name, rows in evaluation.items() if rows is not None},
        source=f"{spec} ({forget}, {retain})",
    )


def _with_authors(rows: list[dict], split: str) -> list[dict]:
    """TOFU's rows with `person`, which the files lack: every 20 consecutive rows of `full` are about one author.

    Rows that name people themselves, and splits of another length (somebody's selection), stay as they are.
    """
    authors = AUTHORS * int(split[-2:]) // 100
    if len(rows) != authors * ROWS_OF_AUTHOR or any("person" in row for row in rows):
        return rows
    first = AUTHORS - authors if split.startswith("forget") else 0  # forget splits are tails of `full`
    return [{**row, "person": f"author {first + number // ROWS_OF_AUTHOR}"} for number, row in enumerate(rows)]


def _user_rows(
    forget: Source, retain: Source | None, forget_split: str | None, retain_split: str | None
) -> UnlearningData:
    if forget_split or retain_split:
        raise InputError(
            f"forget_split={forget_split!r}, retain_split={retain_split!r}: only TOFU and the fictional world have "
            f"splits; leave them out beside your own rows"
        )
    sources = [
        f"a Dataset of {len(rows)} rows" if isinstance(rows, Dataset) else str(rows) for rows in (forget, retain)
    ]
    return _checked(_read(forget), _read(retain), None, {}, f"forget: {sources[0]}, retain: {sources[1]}")


def _with_general_data(data: UnlearningData, general_data: Source | None, near_duplicates: str) -> UnlearningData:
    """The data with the general rows that are wanted; so far it has those of its own world, if any."""
    if general_data is None or (general_data == "embedded" and data.general is not None):
        return data
    if general_data == "embedded":
        raise InputError(
            f"general_data='embedded' is of the fictional world, and the data is another one ({data.source}): give a "
            "file or a hub data set with instructions (such as tatsu-lab/alpaca), or none"
        )
    if general_data == "none":
        return replace(data, general=None)
    rows = read_general_data(general_data if isinstance(general_data, Dataset) else os.fspath(general_data))
    validate_asked_apart(near_duplicates, forget=data.forget, general_data=rows)
    if data.retain is not None:
        validate_apart(retain=data.retain, general_data=rows)  # where they judge, they would have been trained on
    train, judge = split_by_content(rows, "general data")
    evaluation = data.evaluation | {"general_data": _dataset(judge, "general data")}
    return replace(data, general=_dataset(train, "general data"), evaluation=evaluation)


def _with_general_file(data: UnlearningData, general_file: Source, near_duplicates: str) -> UnlearningData:
    rows = read_rows_of(general_file, "general file")
    validate_asked_apart(near_duplicates, forget=data.forget, general_file=rows)
    for name, others in (("retain", data.retain), ("general", data.general)):
        if others is not None:
            validate_apart(**{name: others, "general_file": rows})
    return replace(data, evaluation=data.evaluation | {"general": rows})


def with_trained_forms(
    data: UnlearningData, augment_forms: Sequence[str] | None, augment_attributes: Sequence[str] | None
) -> UnlearningData:
    """The data with its facts in further forms, for training; arguments and errors as of `load_unlearning_data`."""
    if not augment_forms:
        if augment_attributes:
            raise InputError(f"augment_attributes={augment_attributes!r} goes with augment_forms, which is not given")
        return data
    if data.retain is None:
        raise InputError("augment_forms keeps retained facts in every form that it trains: give --retain_file")
    judged = (*data.queries.values(), *data.evaluation.values())
    forms = build_forms(data.forget, data.retain, augment_forms, augment_attributes, data.general, judged)
    words = "; ".join(f"{form} of {', '.join(names)}" for form, names in forms.trained.items())
    if TRANSPOSED in augment_forms:
        words = "; ".join([*([words] if words else []), "what general rows ask of others"])
    return replace(data, forms=forms, source=f"{data.source}, also trained: {words}")


def read_rows_of(source: Source | Rows, name: str) -> Dataset:
    """Rows, or those of a file or data set, each with a question and an answer; `name` is what errors call it.

    Raises:
        InputError: the file cannot be read, or a row is malformed.
    """
    return _dataset(_read(source), name)


def _read(rows: Source | Rows | None) -> Rows | None:
    """Rows that the user hands over: a path is read, a Dataset taken as it is."""
    return read_rows(Path(rows).expanduser()) if isinstance(rows, (str, os.PathLike)) else rows


def _checked(
    forget: Rows,
    retain: Rows | None,
    holdout: Rows | None,
    evaluation: dict[str, Rows],
    source: str,
    queries: dict[str, Rows] | None = None,
) -> UnlearningData:
    return UnlearningData(
        forget=_dataset(forget, "forget set"),
        retain=None if retain is None else _dataset(retain, "retain set"),
        holdout=None if holdout is None else _dataset(holdout, "holdout set"),
        evaluation={name: _dataset(rows, f"evaluation set {name}") for name, rows in evaluation.items()},
        source=source,
        queries={style: _dataset(rows, f"{style} queries") for style, rows in (queries or {}).items()},
    )


def _dataset(rows: Rows, name: str) -> Dataset:
    validate_rows(rows, name)  # before Arrow sees them: its errors name neither row nor column
    if isinstance(rows, Dataset):
        return rows
    columns = dict.fromkeys(column for row in rows for column in row)
    try:
        return Dataset.from_dict({name: [_cell(row, name) for row in rows] for name in columns})
    except (TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:80]  # it may quote a cell
        what = "a text is not valid Unicode" if isinstance(error, UnicodeError) else "a column mixes types"
        what = "a number is too large" if isinstance(error, OverflowError) else what
        raise InputError(f"{name}: {what}: {reason}") from error


def _cell(row: Mapping[str, Any], column: str) -> Any:
    """A missing label is None: its file may have it as NaN or "", which would not go with numbers in one column."""
    return None if column in LABELS and label(row, column) is None else row.get(column)


def _choose_splits(
    forget_split: str | None, retain_split: str | None, retain_of: Mapping[str, str] = RETAIN_OF_FORGET
) -> tuple[str, str]:
    forget = _known(forget_split or DEFAULT_FORGET_SPLIT, retain_of, "forget_split")
    return forget, _known(retain_split or retain_of[forget], retain_of.values(), "retain_split")


def _known(value: str, options: Iterable[str], name: str) -> str:
    options = list(options)
    if value not in options:
        hint = _did_you_mean(value, options)
        raise InputError(f"{name} {value!r} is unknown{hint}; choose one of {', '.join(options)}")
    return value


def _did_you_mean(value: str, options: list[str]) -> str:
    nearest = difflib.get_close_matches(value, options, n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def _check_alignment(plain_rows: list[dict], perturbed_rows: list[dict], split: str) -> None:
    if len(plain_rows) != len(perturbed_rows):
        raise InputError(
            f"{split}_perturbed has {len(perturbed_rows)} rows but {split} has {len(plain_rows)}; take both from one "
            f"version of TOFU, or remove {split}_perturbed"
        )
    for number, (plain, perturbed) in enumerate(zip(plain_rows, perturbed_rows, strict=True)):
        for column in ("question", "answer"):
            if plain.get(column) != perturbed.get(column):
                words = f"{split}_perturbed row {number}: {column} {excerpt(perturbed.get(column))}"
                raise InputError(
                    f"{words} is not that of {split}; take both from one version of TOFU, or remove {split}_perturbed"
                )


def _folder_reader(folder: Path) -> Reader:
    def read(split: str, required: bool) -> list[dict] | None:
        for suffix in (".json", ".jsonl"):
            if (folder / f"{split}{suffix}").is_file():
                return read_rows(folder / f"{split}{suffix}")
        if required:
            names = sorted(entry.name for entry in folder.iterdir())
            held = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "") or "nothing"
            raise InputError(f"folder {folder.absolute()} has no {split}.json; it holds {held}")
        return None

    return read


def _hub_reader(repository: str) -> Reader:
    check_on_hub(repository, "dataset")

    def read(config: str, required: bool) -> list[dict] | None:
        try:
            return datasets.load_dataset(repository, config)["train"].to_list()
        except Exception as error:  # offline, unknown, private, moved: each layer below has its own kinds of errors
            if isinstance(error, ValueError) and not required:  # what `datasets` raises for a config that is not there
                return None
            reason = " ".join(str(error).split())
            raise InputError(
                f"data {repository!r}: config {config!r} cannot be loaded from the hub ({reason}), and there is no "
                f"local folder {Path(repository).absolute()}; offline, give a folder that holds {config}.json and so on"
            ) from error

    return read
