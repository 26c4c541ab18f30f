"""Names of flags: which there are, and how a mistake in one is answered.

Imports nothing heavy: commands use it before they import what takes seconds.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from llm_unlearn.errors import InputError

# what people type from habit, where spelling alone would suggest the wrong field
_HABITS = {
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "steps": "max_steps",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as part of a sentence, or nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def unknown_words(name: str, where: str, known: Iterable[str], prefix: str = "") -> str:
    """The error about a flag (`prefix="--"`) or a field of a file that nobody knows, with the one that was meant."""
    known = list(known)
    plain = name.lstrip("-").replace("-", "_")
    habit = [_HABITS[plain]] if _HABITS.get(plain) in known else []
    nearest = habit or difflib.get_close_matches(plain, known, n=1)
    fix = f"did you mean {prefix}{nearest[0]}?" if nearest else "--help lists the fields"
    return f"unknown {'flag' if prefix else 'field'} {name} {where}; {fix}"


def check_flags(flags: Sequence[str], sources: Iterable[Path] = ()) -> None:
    """Refuse what is no flag of any recipe or benchmark, or lacks its value, without importing them.

    Their own parser, which knows more (which flag belongs to which recipe, and what values may be), comes later: what
    passes here may still be refused there, and what is refused here is wrong for all of them.

    Args:
        sources: files outside this package whose configurations have fields, too: those of methods of other packages.

    Raises:
        InputError: the message names the flag that was meant, or how to write its value.
    """
    known = known_flags(tuple(sources))
    if not known:
        return
    for flag, following in itertools.pairwise([*flags, "--end"]):
        if not _looks_like_a_flag(flag):
            continue
        name = flag.partition("=")[0].removeprefix("--").replace("-", "_")
        if name not in known:
            raise InputError(unknown_words(flag.partition("=")[0], "on the command line", known, "--"))
        if "=" not in flag and _looks_like_a_flag(following) and not known[name]:
            raise InputError(f"{flag}: expected a value on the command line; write {flag} VALUE or {flag}=VALUE")


@functools.cache
def known_flags(sources: tuple[Path, ...] = ()) -> dict[str, bool]:
    """Flag of any recipe or benchmark -> whether it may stand alone; empty where the sources do not tell.

    They are the fields with metadata (their help) of this package's classes, which are read, not imported, and those of
    `transformers.TrainingArguments`.
    """
    library = find_spec("transformers")
    path = Path(library.submodule_search_locations[0]) / "training_args.py" if library else None
    fields = dict(_fields(path)) if path and path.is_file() else {}
    if "output_dir" not in fields:  # another version, whose fields stand elsewhere
        return {}
    for path in [*Path(__file__).parents[1].rglob("*.py"), *sources]:
        for name, alone in _fields(path):
            fields[name] = fields.get(name, False) or alone
    negated = {f"no_{name}": True for name, alone in fields.items() if alone}  # HfArgumentParser adds them
    return {**negated, **fields, "config": False, "help": True, "help_all": True}


def _fields(path: Path) -> Iterator[tuple[str, bool]]:
    """(name, whether its flag may stand alone) of the fields with metadata of a file's classes."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                keywords = getattr(getattr(line, "value", None), "keywords", ())
                if isinstance(line, ast.AnnAssign) and any(keyword.arg == "metadata" for keyword in keywords):
                    alone = "bool" in ast.unparse(line.annotation) or "'nargs'" in ast.unparse(line)
                    yield line.target.id, alone


def _looks_like_a_flag(word: str) -> bool:
    return word.startswith("--") and word != "--" and " " not in word  # as argparse sees it


def parse_command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """`parser.parse_args`, with every mistake in one line.

    Raises:
        InputError: a flag is unknown or lacks its value, or an argument is missing or not a choice.
    """

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{parser.prog}: {message}; {parser.prog} --help explains them")

    parser.error, parser.allow_abbrev = refuse, False  # instead of the whole usage
    parsed, unknown = parser.parse_known_args(list(argv))
    if unknown:
        flags = [option.removeprefix("--") for action in parser._actions for option in action.option_strings]
        if unknown[0].startswith("-"):
            raise InputError(unknown_words(unknown[0].partition("=")[0], f"of {parser.prog}", flags, "--"))
        refuse(f"{unknown[0]!r} is one argument too many")
    return parsed
