"""The `--help` of a recipe, rendered from its dataclasses: our own fields first, the many of the Trainer on request.

`argparse` would print more than a hundred inherited fields before the ones that matter.
"""

import dataclasses
import json
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from transformers import TrainingArguments

USEFUL_TRAINING_FIELDS = (
    "output_dir",
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "seed",
    "bf16",
    "activation_checkpointing",
    "logging_steps",
    "save_strategy",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "resume_from_checkpoint",
)
_TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
_INHERITED = {field.name for field in dataclasses.fields(TrainingArguments)}


def help_text(
    dataclass_types: Sequence[type],
    description: str,
    prog: str,
    everything: bool = False,
    defaults: Mapping[str, Any] | None = None,
    embedded: Mapping[str, Any] | None = None,
) -> str:
    """Return the help of program `prog`.

    Args:
        everything: with all fields inherited from `TrainingArguments`.
        defaults: field name -> what the program has in place of the dataclass default.
        embedded: field name -> what it has in place of that where no model is named.
    """
    defaults, embedded = defaults or {}, embedded or {}
    width = min(shutil.get_terminal_size().columns, 100)
    blocks = [description.strip(), *_usage(description, prog)]
    for cls in dataclass_types:
        if own := [field for field in init_fields(cls) if not _is_inherited(cls, field)]:
            blocks.append("\n".join([_title(cls), *_field_lines(cls, own, width, defaults, embedded)]))
    for cls in dataclass_types:
        if not issubclass(cls, TrainingArguments):
            continue
        inherited = [field for field in init_fields(cls) if _is_inherited(cls, field)]
        if everything:
            title = f"{group_name(cls)}, inherited from transformers.TrainingArguments:"
            blocks.append("\n".join([title, *_field_lines(cls, inherited, width, defaults, embedded)]))
        else:
            blocks.append(_useful_paragraph(inherited, width, defaults, embedded))
    return "\n\n".join(blocks)


def init_fields(cls: type) -> list[dataclasses.Field]:
    """The fields of a dataclass that a user can set."""
    return [field for field in dataclasses.fields(cls) if field.init]


def field_types(cls: type) -> dict[str, Any]:
    """Field name -> resolved type; a field whose metadata lists `choices` counts as a `Literal` of them (or a list)."""
    hints = get_type_hints(cls)
    types = {}
    for field in init_fields(cls):
        hint = hints[field.name]
        if choices := field.metadata.get("choices"):
            literal: Any = Literal[tuple(choices)]
            if any(get_origin(member) is list for member in type_members(hint)):
                literal = list[literal]
            hint = literal | None if NoneType in type_members(hint) else literal
        if field.metadata.get("const") is True:  # such as `--fsdp`, which means true when it stands alone
            hint = bool | hint
        types[field.name] = hint
    return types


def type_members(hint: Any) -> tuple:
    """The members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def type_words(hint: Any) -> str:
    """A type in words: `float | None` -> "a number or null"."""
    members = type_members(hint)
    if any(isinstance(member, type) and issubclass(member, Enum) for member in members):
        members = tuple(member for member in members if member is not str)  # `SchedulerType | str` means a choice
    return " or ".join(_member_words(member) for member in sorted(members, key=lambda member: member is NoneType))


def group_name(cls: type) -> str:
    """The short name of a dataclass: its `_argument_group_name` (Hugging Face's convention) or its name, snake case."""
    snake_case = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
    return getattr(cls, "_argument_group_name", snake_case)


def default_words(field: dataclasses.Field, defaults: Mapping[str, Any] | None = None) -> str:
    """The default of a field as a user would type it, or "required"; `defaults`: field name -> another one."""
    if defaults and field.name in defaults:
        value = defaults[field.name]
    elif field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if isinstance(value, Enum):
        value = value.value
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _member_words(member: Any) -> str:
    origin = get_origin(member) or member
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(member))
    if not isinstance(origin, type):
        return "any value"
    if issubclass(origin, Enum):
        return "one of " + ", ".join(str(choice.value) for choice in origin)
    if issubclass(origin, (list, tuple)):
        item_type = (get_args(member) or (str,))[0]
        return "a list" if item_type in (str, Any) else f"a list, each {type_words(item_type)}"
    if issubclass(origin, dict) or dataclasses.is_dataclass(origin):
        return 'a mapping such as {"key": 1}'
    return _TYPE_WORDS.get(origin, f"a {origin.__name__.lower()}")


def _is_inherited(cls: type, field: dataclasses.Field) -> bool:
    return issubclass(cls, TrainingArguments) and field.name in _INHERITED


def _usage(description: str, prog: str) -> Iterator[str]:
    path = Path(prog)
    is_ours = path.parent.name in ("recipes", "benchmarks")  # wherever they are installed
    script = f"llm-unlearn run {path.stem}" if is_ours else f"accelerate launch {prog}"
    command = script if path.suffix == ".py" else prog
    yield f"Usage:\n  {command} [--config FILE.yaml] [--field value ...]"
    if "Example:" not in description and path.name not in description:
        yield f"Example:\n  {command} --learning_rate 1e-5 --output_dir outputs/example"
    yield "A flag overrides the YAML file, and the YAML file overrides the defaults shown here."


def _title(cls: type) -> str:
    """The group name with the first sentence of the docstring; `dataclass` writes the signature where there is none."""
    docstring = (cls.__doc__ or "").strip()
    own_words = "" if docstring.startswith(f"{cls.__name__}(") else docstring.split("\n\n")[0]
    return f"{group_name(cls)}: {' '.join(own_words.split())}".rstrip()


def _field_lines(
    cls: type,
    fields: list[dataclasses.Field],
    width: int,
    defaults: Mapping[str, Any],
    embedded: Mapping[str, Any],
) -> Iterator[str]:
    types = field_types(cls)
    for field in fields:
        default, other = default_words(field, defaults), _embedded_words(field, defaults, embedded)
        words = f"--{field.name} ({type_words(types[field.name])}; "
        words += "required" if default == "required" else f"default {default}"
        words += f"; in the embedded world {other})" if other else ")"
        yield textwrap.fill(words, width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
        # argparse wants a literal percent sign doubled
        explanation = " ".join(field.metadata.get("help", "").replace("%%", "%").split())
        if explanation:
            indent = " " * 6
            yield textwrap.fill(explanation, width, initial_indent=indent, subsequent_indent=indent)


def _embedded_words(field: dataclasses.Field, defaults: Mapping[str, Any], embedded: Mapping[str, Any]) -> str | None:
    """The default where no model is named; None: it is no other, or the program's own goes before it."""
    words = default_words(field, {**embedded, **defaults})
    return None if words == default_words(field, defaults) else words


def _useful_paragraph(
    inherited: list[dataclasses.Field], width: int, defaults: Mapping[str, Any], embedded: Mapping[str, Any]
) -> str:
    by_name = {field.name: field for field in inherited}
    # a no-break space keeps each name with its default when the paragraph is wrapped
    names = [name for name in USEFUL_TRAINING_FIELDS if name in by_name]
    others = {name: _embedded_words(by_name[name], defaults, embedded) for name in names}
    items = [
        f"--{name}\xa0{default_words(by_name[name], defaults)}" + (f"\xa0[{others[name]}]" if others[name] else "")
        for name in names
    ]
    brackets = " (in brackets: in the embedded world)" if any(others.values()) else ""
    text = f"Training, with the defaults of this recipe{brackets}: {', '.join(items)}. These come from transformers."
    text += f"TrainingArguments; --help_all shows all {len(inherited)} of them."
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False).replace("\xa0", " ")
