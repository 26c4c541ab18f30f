"""The command line of every recipe (defaults, then a YAML file, then flags), and how a recipe ends on an error.

`HfArgumentParser` splits the command line. Values from both sources then go through one conversion, so that a wrong
value reads the same wherever it came from.
"""

import argparse
import dataclasses
import errno
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from llm_unlearn.arguments.flags import unknown_words
from llm_unlearn.arguments.help_text import (
    default_words,
    field_types,
    group_name,
    help_text,
    init_fields,
    type_members,
    type_words,
)
from llm_unlearn.errors import FAILURES, InputError, StorageError

COMMAND_LINE = "on the command line"
_SECRET = re.compile(r"(^|_)(hub_token|hf_token|access_token|auth_token|api_key|password|secret)$|^token$")


class _Given(NamedTuple):
    """A value as the user wrote it: parsed, as plain text where it is a scalar, and where it stands."""

    value: Any
    text: str | None
    where: str


def parse_arguments(
    dataclass_types: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    description: str,
    prog: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    embedded_defaults: Mapping[str, Any] | None = None,
    assumed: Mapping[str, Any] | None = None,
) -> tuple:
    """Return one instance per dataclass from defaults < YAML file (`--config FILE`) < flags.

    Args:
        dataclass_types: their fields are the flags; one may be a `transformers.TrainingArguments`.
        argv: the command line without the program; default: that of this process.
        description: the docstring of the recipe; `--help` and `--help_all` print it first and exit with code 0.
        prog: the program as the help shows it.
        defaults: field name -> value, in place of the dataclass defaults.
        embedded_defaults: likewise, where no model is named; for the help alone.
        assumed: values of fields that were not given, for who looks at the others alone.

    Raises:
        InputError: a field is unknown, missing or has a value of the wrong type, or the file cannot be used.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if asked := {"-h", "--help", "--help_all", "--help-all"}.intersection(argv):
        if is_main_process():
            everything = any("all" in flag for flag in asked)
            named = (description, prog or sys.argv[0], everything)
            print(help_text(dataclass_types, *named, defaults, embedded_defaults))
        raise SystemExit(0)

    types = {name: hint for cls in dataclass_types for name, hint in field_types(cls).items()}
    fields = {field.name: field for cls in dataclass_types for field in init_fields(cls)}
    parser = HfArgumentParser(list(dataclass_types), add_help=False, allow_abbrev=False, exit_on_error=False)
    flags = _read_flags(parser, argv, types)
    config = flags.pop("config", None)
    groups = {group_name(cls) for cls in dataclass_types}
    given = (_read_yaml(config.text, types, groups) if config else {}) | flags

    values = {**(assumed or {}), **(defaults or {})} | {
        name: _converted(fields[name], types[name], written) for name, written in given.items()
    }
    for name, field in fields.items():
        if name not in values and default_words(field) == "required":
            raise InputError(f"{name} is missing; give --{name} VALUE or write `{name}: VALUE` in the --config file")
    try:
        return parser.parse_dict(values)
    except (ValueError, TypeError, ImportError, OSError, OverflowError) as error:  # of the dataclasses' own checks
        raise InputError(_one_line(error)) from error


def convert_fields(dataclass_type: type, texts: Mapping[str, str], where: str) -> dict[str, Any]:
    """Values of some fields of a dataclass, given as text as on a command line.

    Args:
        where: the place of the texts, for errors: "in --methods ...".

    Raises:
        InputError: a field is unknown or a value is of the wrong type.
    """
    types = field_types(dataclass_type)
    fields = {field.name: field for field in init_fields(dataclass_type)}
    for name in texts:
        if name not in types:
            raise InputError(unknown_words(name, where, list(types)))
    given = {name: _Given([text] if _is_list(types[name]) else text, text, where) for name, text in texts.items()}
    return {name: _converted(fields[name], types[name], one) for name, one in given.items()}


def arguments_to_dict(*instances: Any) -> dict[str, dict[str, Any]]:
    """The full configuration as plain JSON values, one entry per dataclass, without tokens and other secrets."""
    return {group_name(type(instance)): _plain(instance) for instance in instances}


SILENCE = 5.0  # seconds
NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def run_main(main: Callable[[], Any]) -> None:
    """Run a recipe; end with one line and exit code 2 (bad input), 3 (divergence), 4 (disk) or 130 (Ctrl-C).

    Of uploads: 5 (the hub failed; all that a retry needs is on disk) and 6 (a file held what must not leave).
    """
    try:
        main()
    except FAILURES as error:
        _exit(f"error: {_one_line(error)}", error.exit_code)
    except OSError as error:
        if error.errno not in NOT_WRITTEN:
            raise
        place = error.filename or "a file"
        line = f"error: {place} could not be written: {error.strerror}. What is finished is kept: make room, or the "
        _exit(f"{line}folder writable, and start the same command again", StorageError.exit_code)
    except KeyboardInterrupt:
        _exit("error: interrupted", 130)


def is_main_process() -> bool:
    """Whether this process may print; launchers set RANK."""
    return os.environ.get("RANK", "0") == "0"


def _exit(line: str, code: int) -> NoReturn:
    if not is_main_process():
        # The launcher stops all processes as soon as one ends: the main one first gets time to say the same, and who
        # is still there after it had none to say.
        time.sleep(SILENCE)
    print(line, file=sys.stderr)
    sys.exit(code)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _read_flags(parser: HfArgumentParser, argv: list[str], types: dict[str, Any]) -> dict[str, _Given]:
    for action in parser._actions:
        # leave to argparse only the splitting: a default would hide what was given, and conversion comes later
        action.default, action.type, action.choices, action.required = argparse.SUPPRESS, None, None, False
        members = type_members(types[action.dest])
        if _is_list(types[action.dest]):
            action.nargs = "+"
        elif bool in members and action.nargs is None:
            action.nargs, action.const = "?", True
    parser.add_argument("--config", default=argparse.SUPPRESS)
    try:
        namespace, leftovers = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        flag = (error.argument_name or "").split("/")[0]
        fix = f"{flag} alone" if "explicit argument" in error.message else f"{flag} VALUE or {flag}=VALUE"
        raise InputError(f"{flag}: {error.message} {COMMAND_LINE}; write {fix}") from error
    if leftovers:
        leftover = next((word for word in leftovers if word.startswith("-")), leftovers[0])  # not the value behind it
        if not leftover.startswith("-"):
            raise InputError(f"unexpected argument {leftover!r} {COMMAND_LINE}; values follow a flag: --name value")
        raise InputError(unknown_words(leftover.split("=")[0], COMMAND_LINE, [*types, "config"], prefix="--"))
    return {name: _from_tokens(value, types.get(name)) for name, value in vars(namespace).items()}


def _from_tokens(value: Any, hint: Any) -> _Given:
    if isinstance(value, list) and len(value) == 1 and str in type_members(hint):
        value = value[0]  # `report_to` takes a name or a list of names
    return _Given(value, value if isinstance(value, str) else None, COMMAND_LINE)


class _YamlLoader(yaml.SafeLoader):
    """YAML as people expect it: `1e-4` is a number (YAML 1.1 asks for `1.0e-4`)."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _read_yaml(path: str, types: dict[str, Any], groups: set[str]) -> dict[str, _Given]:
    try:
        loader = _YamlLoader(Path(path).read_text(encoding="utf-8"))
        root = loader.get_single_node()
        pairs = _ungrouped(root, groups - set(types)) if isinstance(root, yaml.MappingNode) else []
        lines = [(key.value, key.start_mark.line + 1) for key, _ in pairs]
        values = {} if root is None else loader.construct_document(root)
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror}); check the path") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"--config {path}{line}: not valid YAML ({error.problem}); correct that line") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"--config {path}: not valid YAML ({_one_line(error)}); correct the file") from error
    if not isinstance(values, dict):
        raise InputError(f"--config {path}: holds a {type(values).__name__}, not a mapping; write lines `field: value`")

    where = {name: f"in {path}, line {line}" for name, line in lines}
    if repeated := [(name, line) for index, (name, line) in enumerate(lines) if name in dict(lines[:index])]:
        raise InputError(f"{repeated[0][0]} is set again in {path}, line {repeated[0][1]}; keep one of the two")
    texts = {key.value: value.value for key, value in pairs if isinstance(value, yaml.ScalarNode)}
    for name in values:
        if name not in types:
            raise InputError(unknown_words(str(name), where.get(name, f"in {path}"), list(types)))
    return {name: _Given(value, texts.get(name), where.get(name, f"in {path}")) for name, value in values.items()}


def _ungrouped(root: yaml.MappingNode, groups: set[str]) -> list[tuple[yaml.Node, yaml.Node]]:
    """Lift the fields out of their groups, in place: the form of `arguments_to_dict`, so that a run can be repeated."""
    lifted = []
    for key, value in root.value:
        is_group = isinstance(key, yaml.ScalarNode) and key.value in groups and isinstance(value, yaml.MappingNode)
        lifted += value.value if is_group else [(key, value)]
    root.value = lifted
    return lifted


def _converted(field: dataclasses.Field, hint: Any, given: _Given) -> Any:
    if given.where == COMMAND_LINE and isinstance(given.value, bool):
        return given.value  # a flag without a value
    try:
        return _convert(given.value, hint, given.text)
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise InputError(
            f"{field.name}: {given.value!r} {given.where} is not valid; "
            f"give {type_words(hint)} (default: {default_words(field)})"
        ) from error


def _convert(value: Any, hint: Any, text: str | None) -> Any:
    """`value` as type `hint`; `text` is how the user spelled it (YAML turns `no` into False, which may be a choice)."""
    members = type_members(hint)
    if type(None) in members and (value is None or value == "null"):
        return None
    is_choice = any(isinstance(member, type) and issubclass(member, Enum) for member in members)
    is_json = dict in (get_origin(member) or member for member in members) and str(text).lstrip().startswith("{")
    for member in sorted(members, key=lambda member: member is str):  # any text is a `str`, so the others go first
        if member is type(None) or (member is str and (is_choice or is_json)):
            continue
        try:
            return _convert_member(value, member, text)
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            continue
    raise ValueError(value)


def _convert_member(value: Any, member: Any, text: str | None) -> Any:
    origin = get_origin(member) or member
    if member is Any:
        return value
    if origin is Literal:
        for choice in get_args(member):
            if text == str(choice) or (type(value) is type(choice) and value == choice):
                return choice
        raise ValueError("not a choice")
    if isinstance(origin, type) and issubclass(origin, Enum):
        return origin(value if text is None else text)
    if value is None:
        raise ValueError("null")
    if origin is bool:
        return string_to_bool(str(value))
    if origin in (int, float):
        return _number(value, origin)
    if origin is str:
        if text is None and not isinstance(value, (str, int, float)):
            raise ValueError("not a scalar")
        return str(value) if text is None else text
    if _is_sequence(member):
        if not isinstance(value, list):
            raise ValueError("not a list")
        item_type = (get_args(member) or (Any,))[0]
        return origin(_convert(item, item_type, item if isinstance(item, str) else None) for item in value)
    if origin is dict:
        value = json.loads(value) if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise ValueError("not a mapping")
        item_type = (get_args(member) or (Any, Any))[1]
        return {key: _convert(item, item_type, item if isinstance(item, str) else None) for key, item in value.items()}
    return origin(**value) if isinstance(value, dict) else origin(value)


def _number(value: Any, kind: type) -> int | float:
    if kind is int and isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d+\s*", value):
        return int(value)  # not through float, which is exact only up to 2**53
    number = float(value)
    if isinstance(value, bool) or math.isnan(number) or (kind is int and not number.is_integer()):
        raise ValueError(value)
    return value if kind is int and isinstance(value, int) else kind(number)


def _is_list(hint: Any) -> bool:
    return any(_is_sequence(member) for member in type_members(hint))


def _is_sequence(member: Any) -> bool:
    return (get_origin(member) or member) in (list, tuple)


def _plain(value: Any) -> Any:
    """`value` in terms of JSON; anything JSON has no word for becomes text."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in init_fields(type(value))}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if not _SECRET.search(str(key))}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)]
    is_json = (
        value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
    )
    return value if is_json else str(value)
