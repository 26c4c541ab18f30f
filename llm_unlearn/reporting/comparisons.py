"""The evidence of a verdict in rows: one per question style or attack, and one per ability.

Terminal, page, card and figures show these rows; all of them are made from the contents of verdict.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from llm_unlearn.examining.evidence import KNOWLEDGE, Evidence
from llm_unlearn.examining.fluency import FLUENCY
from llm_unlearn.examining.inside import INSIDE
from llm_unlearn.examining.price import is_unsure

PROBABILITY = "forget_probability"
KINDS = ("output", "attack", "counterfactual", INSIDE)  # of what is still known; "ability" is the price
ABILITY_LOST = "ability lost"
_FIRST = (KNOWLEDGE, PROBABILITY)  # the order of scores within a style; others follow as they come
_FIELDS = {field.name for field in fields(Evidence)}

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Style:
    """All scores of one question style or attack, knowledge first."""

    label: str
    kind: str
    name: str
    variant: str | None
    by_score: dict[str, Evidence]

    @property
    def flagged(self) -> bool:
        """Whether any score speaks against erasure."""
        return any(finding.flagged for finding in self.by_score.values())

    @property
    def lost_ability(self) -> bool:
        """Whether retained facts fell alike, so that a low score is no forgetting (`examining.price.selectivity`)."""
        return any(finding.ability_lost for finding in self.by_score.values())

    @property
    def mark(self) -> str:
        """ "!" where it speaks against erasure, "ability lost", or nothing."""
        return "!" if self.flagged else ABILITY_LOST if self.lost_ability else ""

    @property
    def selectivity(self) -> tuple[float, tuple[float, float]] | None:
        """The value with its interval, where retained facts were asked alike."""
        finding = self.by_score.get(PROBABILITY)
        return (
            None
            if finding is None or finding.selectivity is None
            else (finding.selectivity, finding.selectivity_interval)
        )


@dataclass(frozen=True)
class Price:
    """One ability in all its scores."""

    label: str
    name: str
    by_score: dict[str, Evidence]

    @property
    def share(self) -> float | None:
        """What is left of the weakest of original and oracles, in the score that kept least; None: nothing to lose."""
        return min((finding.share for finding in self.by_score.values() if finding.share is not None), default=None)

    @property
    def word(self) -> str:
        """ "lost", "kept", "?" (too few rows to say) or "" (nothing to lose)."""
        scores = self.by_score.values()
        if any(finding.flagged for finding in scores):
            return "lost"
        if self.share is None:
            return ""
        return "?" if any(is_unsure(finding) for finding in scores) else "kept"

    @property
    def note(self) -> str | None:
        """What a score says of itself, such as that the original cannot do it."""
        return next((finding.note for finding in self.by_score.values() if finding.note), None)

    @property
    def is_fluency(self) -> bool:
        """Fluency is no ability that unlearning costs: it says whether the forget questions still get answers."""
        return self.name == FLUENCY


def styles_of(verdict: Json) -> list[Style]:
    """What is still known: before any attack, when asked otherwise, after attacks, and in the control."""
    grouped: dict[tuple, dict[str, Evidence]] = {}
    for finding in _evidence(verdict):
        if finding.kind != "ability":
            grouped.setdefault((finding.kind, finding.name, finding.variant), {})[finding.score] = finding
    found = []
    for (kind, name, variant), by_score in grouped.items():
        ordered = {score: by_score[score] for score in (*_FIRST, *by_score) if score in by_score}
        found.append(Style(next(iter(ordered.values())).label, kind, name, variant, ordered))
    order = [*KINDS, *(style.kind for style in found)]
    return sorted(found, key=lambda style: order.index(style.kind))


def prices_of(verdict: Json) -> list[Price]:
    """What it cost: a row per ability in the order in which they were measured, fluency last."""
    grouped: dict[str, dict[str, Evidence]] = {}
    for finding in _evidence(verdict):
        if finding.kind == "ability":
            grouped.setdefault(finding.name, {})[finding.score] = finding
    found = [Price(next(iter(by_score.values())).label, name, by_score) for name, by_score in grouped.items()]
    return sorted(found, key=lambda price: price.is_fluency)


def price_words(prices: Sequence[Price]) -> str | None:
    """How many abilities are lost, and of which one least was kept; None where none was measured."""
    measured = [price for price in prices if price.share is not None and not price.is_fluency]
    if not measured:
        return None
    lost, unsure = (sum(price.word == word for price in measured) for word in ("lost", "?"))
    if len(measured) == 1:
        words = f"One ability was measured, and it is {measured[0].word if not unsure else 'perhaps lost'}"
    else:
        words = f"{lost or 'None'} of {len(measured)} abilities {'are' if lost > 1 else 'is'} lost"
        words += f", of {unsure} too few rows were asked to say" if unsure else ""
    least = min(measured, key=lambda price: price.share)
    return f"{words}. Least was kept of {least.label}: {least.share:.0%}.".replace("%", "\N{NO-BREAK SPACE}%")


def _evidence(verdict: Json) -> list[Evidence]:
    """Fields of later versions are left out; those of earlier ones have defaults."""
    return [
        Evidence(**{name: value for name, value in finding.items() if name in _FIELDS})
        for finding in verdict.get("evidence") or []
    ]
