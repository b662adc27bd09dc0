"""How often the intervals of accuracies hold the truth: single, balanced, and expected of a network trained anew.

    python tests/benchmarks/accuracy_coverage.py        # results/accuracy_coverage.json

Accuracies of all samples are exact sums over the binomial distribution, beside the interval that they replace (the
normal one of the measured share); one accuracy alone swings with the whole numbers that are possible, so that a mean
over many is given, too. Balanced accuracies are simulated, from classes of known shares and recalls.
"""

from typing import Any

import numpy as np
from result_file import write_result
from scipy.stats import binom

from lwexplain.advice.outlook import accuracy_interval
from lwexplain.intervals import Z90, mean_share_interval, wilson_interval

SIZES = (50, 500, 5000)
TRUTHS = (0.6, 0.8, 0.9, 0.95, 0.99)
MANY = np.linspace(0.6, 0.99, 79)
DRAWS = 4000
POPULATIONS: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "2 even classes, recall 0.9": (np.array([0.5, 0.5]), np.array([0.9, 0.9])),
    "10 even classes, recalls 0.4 to 0.98": (np.full(10, 0.1), np.linspace(0.4, 0.98, 10)),
    "a rare class of 10 %, recalls 0.98 and 0.5": (np.array([0.9, 0.1]), np.array([0.98, 0.5])),
    "5 uneven classes, recalls 0.95 to 0.5": (
        np.array([0.6, 0.2, 0.1, 0.06, 0.04]),
        np.array([0.95, 0.9, 0.8, 0.7, 0.5]),
    ),
}
"""Shares of the classes and their recalls."""


def exact(low: np.ndarray, high: np.ndarray, n: int) -> dict[str, Any]:
    """Coverage of the intervals (n + 1,) of every number of right samples."""
    counts = np.arange(n + 1)

    def coverage(truth: float) -> float:
        return float(binom.pmf(counts, n, truth)[(low <= truth) & (high >= truth)].sum())

    mean = float(np.mean([coverage(truth) for truth in MANY]))
    return {"n": n, "mean": mean, "by_accuracy": {str(truth): coverage(truth) for truth in TRUTHS}}


def of_shares(n: int) -> dict[str, Any]:
    """The 95 % intervals of the rows ``*_accuracy``."""
    bounds = np.array([wilson_interval(count / n, n) for count in range(n + 1)])
    return exact(bounds[:, 0], bounds[:, 1], n)


def of_expected(n: int) -> dict[str, Any]:
    """The 90 % intervals of expected accuracies that were measured on n samples, the model leaving nothing open."""
    low, high = accuracy_interval(np.arange(n + 1) / n, np.zeros(n + 1), n)
    return exact(low, high, n)


def of_expected_before(n: int) -> dict[str, Any]:
    """The same by the normal approximation."""
    share = np.arange(n + 1) / n
    half = Z90 * np.sqrt(share * (1 - share) / n)
    return exact(share - half, share + half, n)


def of_balanced(n: int) -> dict[str, float]:
    """The 95 % intervals of balanced accuracies, by population."""
    rng = np.random.default_rng(0)
    found = {}
    for name, (shares, recalls) in POPULATIONS.items():
        counts = np.round(shares * n).astype(int)
        draws = rng.binomial(counts, recalls, size=(DRAWS, len(counts)))
        intervals = np.array([mean_share_interval(right.tolist(), counts.tolist()) for right in draws])
        held = (intervals[:, 0] <= recalls.mean()) & (intervals[:, 1] >= recalls.mean())
        found[name] = float(held.mean())
    return found


def main() -> None:
    content = {
        "accuracy_95": [of_shares(n) for n in SIZES],
        "expected_accuracy_90": [of_expected(n) for n in SIZES],
        "expected_accuracy_90_normal_approximation": [of_expected_before(n) for n in SIZES],
        "balanced_accuracy_95": {str(n): of_balanced(n) for n in SIZES},
    }
    for name, found in content.items():
        print(name, found)
    print(write_result("accuracy_coverage", content))


if __name__ == "__main__":
    main()
