"""Whether anything was learned: exact tests of accuracies against always guessing the most frequent class."""

import math
from dataclasses import dataclass

import numpy as np

from lwexplain.advice.curve import DepthCurve

LEVEL = 0.01
"""How often, at most, networks that have learned nothing pass for ones that have."""


@dataclass(frozen=True)
class GuessTest:
    """A depth curve held against the constant guess, which is right on the share ``chance`` of the samples.

    ``p`` (S,) are the exact one-sided p-values of single depths. Where it is known which samples are of the most
    frequent class, guess and depth are compared on the samples that only one of them gets right (McNemar 1947, exact):
    a depth that finds 10 of 20 rare samples and raises no false alarm has 10 against 0. Where that is not known, the
    number of right samples is held against the share ``chance`` (binomial), which sees less.
    """

    curve: DepthCurve
    chance: float
    p: np.ndarray

    @classmethod
    def of(cls, curve: DepthCurve, chance: float) -> "GuessTest":
        if curve.against_guess is None:
            pairs, share = [(round(value * curve.n), curve.n) for value in curve.accuracy.tolist()], chance
        else:
            won, lost = curve.against_guess
            pairs, share = list(zip(won, won + lost, strict=True)), 0.5
        return cls(curve, chance, np.array([binomial_tail(int(k), int(n), share) for k, n in pairs]))

    @property
    def paired(self) -> bool:
        """Whether guess and depth were compared sample by sample."""
        return self.curve.against_guess is not None

    @property
    def joint_p(self) -> float:
        """p-value of all depths together, against the best of several being lucky (Simes 1986): stages that are right
        on the same samples do not count against each other."""
        ranks = np.arange(1, len(self.p) + 1)
        return float(np.min(np.sort(self.p) * len(self.p) / ranks))

    @property
    def passed(self) -> bool:
        """True where a depth surely beats the guess."""
        return self.joint_p <= LEVEL


def binomial_tail(k: int, n: int, p: float) -> float:
    """Probability of ``k`` or more of ``n``, each with the probability ``p``.

    Summed over the logarithms of the terms; scipy has it, too, but takes longer to load than advice takes to give.
    """
    if k <= 0 or p >= 1:
        return 1.0
    if k > n or p <= 0:
        return 0.0
    first = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    )
    at = np.arange(k, n)
    steps = np.log(n - at) - np.log(at + 1) + math.log(p) - math.log1p(-p)
    terms = first + np.concatenate([[0.0], np.cumsum(steps)])
    return float(min(1.0, np.exp(terms).sum()))
