"""Files that are complete or absent: whoever reads one never sees half of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_whole(path: Path, parts: Iterable[str]) -> None:
    """Write a text, given in parts; the file gets its name when all of it is there."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    with open(unfinished, "w", encoding="utf-8") as file:
        file.writelines(parts)
    unfinished.replace(path)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object; NaN is refused."""
    write_whole(path, [json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)])


def json_digest(value: Any) -> str:
    """The SHA-256 of a value's JSON, by which a file that holds both can be told from one that was changed."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
