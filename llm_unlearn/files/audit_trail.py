"""The audit trail of deletion requests: a line for each, in which no row and no name stands, chained by hashes.

A line says which rows were asked to be forgotten (by hashes), when that was done, the digests of the model before and
after, the settings and what was found. It has its own hash and that of the line before it, so a line that is changed,
left out or put in shows. Whoever can write the file can write all of it anew: keep the last hash somewhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_unlearn.data.formats import Prompt
from llm_unlearn.errors import InputError
from llm_unlearn.files.whole import write_whole

FILE = "audit_trail.jsonl"
FIRST = "0" * 64  # what the first line has in place of the hash of one before it
FIELDS = ("request", "finished", "rows", "before", "after", "settings", "verdict", "previous", "sha256")


def row_digest(prompt: Prompt, answer: str) -> str:
    """SHA-256 over the canonical JSON of {"prompt", "answer"}, whatever columns the row has them in.

    Whoever has the row can find it again. So can who guesses it: a hash is no secret where there is little to guess.
    """
    return _digest({"prompt": prompt, "answer": answer})


def append_line(
    folder: Path,
    *,
    rows: Sequence[str],
    before: Mapping[str, str],
    after: Mapping[str, str],
    settings: Mapping[str, Any],
    verdict: Mapping[str, Any],
) -> dict[str, Any]:
    """Add the next request's line, and return it; the file is whole at any time.

    Args:
        rows: `row_digest` of each. before, after: digests of the model's files.

    Raises:
        InputError: the file is no trail.
    """
    lines = read_trail(folder)
    line = {
        "request": len(lines) + 1,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": [*rows],
        "before": dict(before),
        "after": dict(after),
        "settings": dict(settings),
        "verdict": dict(verdict),
        "previous": lines[-1]["sha256"] if lines else FIRST,
    }
    line["sha256"] = _digest(line)
    write_whole(folder / FILE, [f"{_canonical(one)}\n" for one in [*lines, line]])
    return line


def read_trail(folder: Path) -> list[dict[str, Any]]:
    """The lines of a trail; none where there is no file.

    Raises:
        InputError: a line is no JSON object, or lacks a field.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    lines = []
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): put back the file as it was written") from error
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        missing = FIELDS if not isinstance(line, dict) else [name for name in FIELDS if name not in line]
        if missing:
            raise InputError(f"{path}, line {number} lacks {missing[0]!r}: put back the file as it was written")
        lines.append(line)
    return lines


def broken_links(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with a chain of lines, a sentence each; none: every line is as it was written, in its place."""
    found, previous, model = [], FIRST, None
    for number, line in enumerate(lines, 1):
        if line["sha256"] != _digest({name: value for name, value in line.items() if name != "sha256"}):
            found.append(f"line {number} was changed after it was written")
        if line["previous"] != previous:
            found.append(f"line {number} does not follow the line before it: one was changed, left out or put in")
        if line["request"] != number:
            found.append(f"line {number} is of request {line['request']}")
        if model is not None and line["before"] != model:
            found.append(f"line {number} begins with another model than line {number - 1} left")
        previous, model = line["sha256"], line["after"]
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def _canonical(value: Any) -> str:
    """JSON with sorted keys and no space: the same value has the same text everywhere."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
