"""Where methods were published."""

from typing import NamedTuple


class Paper(NamedTuple):
    """One publication, for cards and docs."""

    arxiv: str  # number
    authors: str
    year: int
    title: str
