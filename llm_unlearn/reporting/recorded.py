"""The method that was recorded as nearest to erasure in an embedded world, to stand beside a run in the same world.

`recorded.json` beside this file is taken from docs/leaderboard by `benchmarks/_from_leaderboard.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_unlearn.reporting.leaderboard import KNOWN, best_entries, not_reached_words, setting_words, world_words
from llm_unlearn.reporting.words import number_words

RECORDED = Path(__file__).with_name("recorded.json")
_KEPT = ("method", "seeds", "reached", "verdicts", "lowest", "lost")


def winners(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """World and setting -> what is told of the best entry there, as JSON values."""
    found = {}
    for title, entry in best_entries(entries).items():
        known = {column: entry["knowledge"][column] for column in KNOWN if column in entry["knowledge"]}
        found[title] = {name: entry[name] for name in _KEPT} | {"knowledge": known}
    return found


def recorded_words(config: Mapping[str, Any]) -> str | None:
    """One sentence about the method that the leaderboard puts first where a run stands; None where there is none.

    Args:
        config: of the run, as in its results.json.
    """
    title = f"{world_words(config)}, {setting_words(config)}"
    entry = json.loads(RECORDED.read_text(encoding="utf-8")).get(title)
    if entry is None:
        return None
    known = ", ".join(f"{_value(one)} {column}" for column, one in entry["knowledge"].items())
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in entry["verdicts"].items())
    lowest, short = entry["lowest"], not_reached_words(entry)
    kept = (
        f"{number_words(lowest['share'], 2)} is kept of the ability that lost most" if lowest else "abilities unknown"
    )
    return (
        f"Nearest to erasure of what was recorded here (docs/leaderboard: {title}): {entry['method']}, "
        f"knowledge {known}; {kept}; verdicts: {verdicts}" + (f"; {short}." if short else ".")
    )


def _value(one: Mapping[str, Any]) -> str:
    return f"{number_words(one['value'], 2)} [{', '.join(number_words(end, 2) for end in one['interval'])}]"
