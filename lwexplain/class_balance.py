"""When the classes of a split are uneven enough for accuracy alone to mislead."""

from collections.abc import Sequence

UNEVEN = 0.5
"""A class may hold this share less or more than an even share of the samples; beyond, the classes are uneven."""


def is_uneven(counts: Sequence[int]) -> bool:
    """True where a class of K holds less than half or more than one and a half of 1/K of the samples."""
    even = sum(counts) / len(counts) if counts else 0.0
    return bool(counts) and (min(counts) < (1 - UNEVEN) * even or max(counts) > (1 + UNEVEN) * even)


def unevenness(counts: Sequence[int]) -> str:
    """What a reader of an accuracy must know of uneven classes, from the samples of each; "" where they are even."""
    if not is_uneven(counts):
        return ""
    total = sum(counts)
    low, high = (100 * number / total for number in (min(counts), max(counts)))
    return f"uneven classes: from {low:.1f} % to {high:.1f} % of the samples, so that accuracy alone misleads"


def unevenness_of_largest(share: float, classes: int) -> str:
    """The same where only the share of the most frequent of K classes is known."""
    if share <= (1 + UNEVEN) / classes:
        return ""
    return f"uneven classes: the largest holds {100 * share:.1f} % of the samples, so that accuracy alone misleads"
