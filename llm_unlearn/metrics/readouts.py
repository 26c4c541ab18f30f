"""Linear readouts of features, judged by people whom they never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

STRENGTHS = (0.001, 0.01, 0.1)  # scikit-learn's C: the smaller, the more is held back
FOLDS = 5
MOST_ITERATIONS = 2000


@dataclass(frozen=True)
class Labeled:
    """Rows to learn from or to be tested on.

    Attributes:
        features: (rows, width). labels, people: (rows,), of what is to be read off, and whom a row is about.
    """

    features: np.ndarray
    labels: np.ndarray
    people: np.ndarray

    def where(self, mask: np.ndarray) -> Labeled:
        """The rows where a mask (rows,) is set."""
        return Labeled(self.features[mask], self.labels[mask], self.people[mask])


def fitted(rows: Labeled, strength: float) -> Pipeline:
    """A multinomial logistic regression on standardized features with L2 penalty; all labels weigh the same.

    Args:
        strength: scikit-learn's C, one of `STRENGTHS`.
    """
    readout = LogisticRegression(C=strength, class_weight="balanced", max_iter=MOST_ITERATIONS)
    return make_pipeline(StandardScaler(), readout).fit(rows.features, rows.labels)


def folds_of(rows: Labeled) -> dict[str, int]:
    """Person -> number of the fold that leaves them out, the first label of a person deciding.

    People of one label are dealt in turn, so whatever two of them share is still there when one of them is left out.
    """
    first = dict(zip(reversed(rows.people.tolist()), reversed(rows.labels.tolist()), strict=True))
    ordered = sorted(dict.fromkeys(rows.people.tolist()), key=lambda person: str(first[person]))
    return {person: number % FOLDS for number, person in enumerate(ordered)}


def cross_predicted(rows: Labeled, strength: float, *tests: Labeled, method: str = "predict") -> tuple[np.ndarray, ...]:
    """What readouts say of test rows, each person's by one that was fitted without this person.

    Args:
        rows: to learn from. tests: of the same people.
        method: of the readout: "predict" (labels), or between two labels "decision_function" (log-odds of the second).

    Returns:
        Of each test (rows,).
    """
    folds = folds_of(rows)
    fold_of = [np.array([folds[person] for person in part.people.tolist()]) for part in (rows, *tests)]
    found = tuple(np.empty(len(test.people), rows.labels.dtype if method == "predict" else float) for test in tests)
    for fold in sorted(set(folds.values())):
        readout = fitted(rows.where(fold_of[0] != fold), strength)
        for said, test, its_folds in zip(found, tests, fold_of[1:], strict=True):
            if (here := its_folds == fold).any():
                said[here] = getattr(readout, method)(test.features[here])
    return found


def chosen_strength(score: Callable[[float], float]) -> float:
    """The strength with the highest score; among equals the one that holds back most."""
    return max(STRENGTHS, key=score)


def shuffled(rows: Labeled, seed: int) -> Labeled:
    """The labels dealt out anew among people: each gets those of another, whatever their number of rows."""
    people = list(dict.fromkeys(rows.people.tolist()))
    first = dict(zip(reversed(rows.people.tolist()), reversed(rows.labels.tolist()), strict=True))
    dealt = np.random.default_rng(seed).permutation(len(people))
    label_of = {person: first[people[other]] for person, other in zip(people, dealt, strict=True)}
    return Labeled(rows.features, np.array([label_of[person] for person in rows.people.tolist()]), rows.people)
