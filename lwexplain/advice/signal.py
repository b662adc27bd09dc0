"""Whether anything was learned: exact tests of accuracies against always guessing the most frequent class."""

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
        from scipy.special import betainc  # the tails of binomial distributions

        if curve.against_guess is None:
            right = np.round(curve.accuracy * curve.n)
            tail = betainc(np.maximum(right, 0.5), curve.n - right + 1, chance)
            return cls(curve, chance, np.where(right > 0, tail, 1.0))
        won, lost = curve.against_guess
        return cls(curve, chance, np.where(won > 0, betainc(np.maximum(won, 0.5), lost + 1, 0.5), 1.0))

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
