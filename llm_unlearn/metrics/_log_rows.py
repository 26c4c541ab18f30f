"""Reading the rows of a parsed evaluation log: whatever is bad is named by log, metric, row and field."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import checked_number, checked_numbers

_FIX = "evaluate this row again"
_WHOLE_NUMBER = re.compile(r"(\d+)\.0")


class LogRows:
    """One log in open-unlearning's format; its errors begin with `label`, the file where there is one."""

    def __init__(self, log: Mapping[str, Any], label: str) -> None:
        if not isinstance(log, Mapping):
            raise InputError(f"{label} must be an object of metrics, got {log!r:.80}: pass a parsed TOFU_EVAL.json")
        self.log = log
        self.label = label

    def __contains__(self, name: str) -> bool:
        return name in self.log

    def rows(self, name: str, group: str | None = None) -> dict[str, Any]:
        """The rows of a metric (of "forget" or "holdout" for a membership attack), by index as text."""
        where = f"{self.label}: {name}"
        entry = self.log[name]
        if group is not None:
            if not isinstance(entry, Mapping) or group not in entry:
                raise InputError(
                    f"{where} has no group {group!r}, got {entry!r:.80}: pass TOFU_EVAL.json, not a summary"
                )
            where, entry = f"{where}, {group}", entry[group]
        rows = entry.get("value_by_index") if isinstance(entry, Mapping) else None
        if not isinstance(rows, Mapping):
            raise InputError(
                f"{where} has no 'value_by_index', got {entry!r:.80}: pass TOFU_EVAL.json, not TOFU_SUMMARY.json"
            )
        if not rows:
            raise InputError(f"{where} has no row: evaluate at least one row")
        fields = dict.fromkeys(field for row in rows.values() if isinstance(row, Mapping) for field in row)
        for index, row in rows.items():
            lacking = [field for field in fields if isinstance(row, Mapping) and field not in row]
            if lacking:
                raise InputError(f"{where}, row {index}: no field {lacking[0]!r}, which other rows have: {_FIX}")
        return {_index(index): row for index, row in rows.items()}

    def values(self, name: str, field: str, group: str | None = None) -> dict[str, Any]:
        """One field of every row."""
        rows = self.rows(name, group)
        for index, row in rows.items():
            if not isinstance(row, Mapping) or field not in row:
                raise InputError(f"{self._where(name, group)}, row {index}: no field {field!r} in {row!r:.80}: {_FIX}")
        return {index: row[field] for index, row in rows.items()}

    def numbers(self, name: str, field: str, *, total: bool = False, minimum: float = -math.inf) -> dict[str, float]:
        """One field of every row; a list (several wrong answers) becomes its mean, or its sum if `total`."""
        return {
            index: float((np.sum if total else np.mean)(self.checked(name, index, field, value, minimum)))
            for index, value in self.values(name, field).items()
        }

    def scores(self, name: str, group: str | None = None, minimum: float = -math.inf) -> dict[str, float]:
        """The field "score" of every row, which must be a single number."""
        return {
            index: checked_number(f"{self._where(name, group)}, row {index}, score", value, _FIX, minimum)
            for index, value in self.values(name, "score", group).items()
        }

    def checked(self, name: str, index: str, field: str, value: Any, minimum: float = -math.inf) -> np.ndarray:
        return checked_numbers(f"{self._where(name)}, row {index}, {field}", value, _FIX, minimum)

    def check_same_rows(self, first: str, second: str, group: str | None = None) -> None:
        """Raise InputError unless two metrics of one set of questions have the same rows."""
        check_same_rows(
            self._where(first, group),
            self.rows(first, group),
            self._where(second, group),
            self.rows(second, group),
            "evaluate this set again, all its metrics on the same rows",
        )

    def _where(self, name: str, group: str | None = None) -> str:
        return f"{self.label}: {name}" + (f", {group}" if group else "")


def check_same_rows(first: str, rows: Mapping[str, Any], second: str, other_rows: Mapping[str, Any], fix: str) -> None:
    """Raise InputError that names a row which only one of the two has."""
    different = [index for index in rows if index not in other_rows] or [i for i in other_rows if i not in rows]
    if different:
        place = "first" if different[0] in rows else "second"
        raise InputError(
            f"{first} has {len(rows)} rows and {second} has {len(other_rows)}, row {different[0]} is only in the "
            f"{place}: {fix}"
        )


def _index(index: Any) -> str:
    # Some logs count rows in floats ("17.0"), and logs that were never written in integers.
    text = str(index)
    whole = _WHOLE_NUMBER.fullmatch(text)
    return whole[1] if whole else text
