"""What attacks without training return of one variant of the model, or of the question."""

from __future__ import annotations

from collections.abc import Sequence

from llm_unlearn.metrics import knowledge
from llm_unlearn.models.scoring import AnswerScore

VALUES = ("probability", "exact_match")


def variant(
    forget: Sequence[AnswerScore],
    retain: Sequence[AnswerScore] = (),
    rows: Sequence[int] | None = None,
    wins: Sequence[Sequence[float]] = (),
) -> dict:
    """Means over forget rows and over retain rows, and the values of each forget row.

    Args:
        retain: where there are none, there are no retain scores.
        rows: the forget row that each forget score belongs to, by default one score a row, in order. Several scores of
            one row are averaged, so that every row counts alike.
        wins: of each forget score over made-up answers, where it was compared with some.

    Returns:
        {"forget_exact_match": mean, "forget_probability": mean, "retain_exact_match": mean, "retain_probability": mean,
        "value_by_index": {"0": {"probability": p, "exact_match": 0.0 or 1.0 (between them: an average)}, ...}};
        with `wins` also "forget_knowledge", and each row's "wins".
    """
    scores_of: dict[int, list[AnswerScore]] = {}
    for row, score in zip(range(len(forget)) if rows is None else rows, forget, strict=True):
        scores_of.setdefault(row, []).append(score)
    values = {
        str(row): {name: mean(getattr(score, name) for score in scores) for name in VALUES}
        for row, scores in scores_of.items()
    }
    outcome = {f"forget_{name}": mean(value[name] for value in values.values()) for name in reversed(VALUES)}
    if retain:
        outcome |= {f"retain_{name}": mean(getattr(score, name) for score in retain) for name in reversed(VALUES)}
    for row, won in zip(range(len(forget)) if rows is None else rows, wins, strict=False):
        values[str(row)].setdefault("wins", []).extend(won)
    if wins and (known := knowledge(values)) is not None:
        outcome["forget_knowledge"] = known
    return outcome | {"value_by_index": values}


def mean(values) -> float:
    """The mean of an iterable of numbers or booleans."""
    values = list(values)
    return sum(values) / len(values)
