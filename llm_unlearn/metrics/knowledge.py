"""Knowledge free of calibration: is the true answer likelier than made-up ones of the same kind?

An answer's probability confuses knowledge with confidence, and a broken answer with a forgotten fact. Against answers
that are as good a guess for whoever never saw any of them (`data.made_up`), only knowledge tells the true one apart:
1 known, 0.5 ignorant, below 0.5 avoided, which gives the fact away, too. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def knowledge_wins(true: float, made_up: Sequence[float]) -> list[float]:
    """For each made-up answer 1.0 where the true one is likelier, 0.5 for a tie, 0.0 where it is not.

    Args:
        true: log-probability per token of the true answer, in nats.
        made_up: those of the made-up answers.
    """
    return [1.0 if true > value else 0.5 if true == value else 0.0 for value in made_up]


def knowledge(rows: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The mean over all comparisons of all rows; None where there is none.

    Every comparison counts alike, not every row: two units whose answers differ then meet from either side equally
    often in expectation, so whoever never saw them has 0.5 exactly, also where some answers are likelier than others
    and some are true of several units (those have fewer comparisons).

    Args:
        rows: index -> {"wins": values of `knowledge_wins`, ...}.
    """
    wins = [win for row in rows.values() for win in row["wins"]]
    return sum(wins) / len(wins) if wins else None
