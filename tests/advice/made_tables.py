"""Analysis tables with a known truth, made without a network."""

import numpy as np
import pandas as pd

from lwexplain.results import PREDICTION_COLUMNS, correctness_patterns, metrics_frame


def table_of(accuracy, *, n=4000, source="head", strategy="greedy", classes=10, seed=0, others=None):
    """A table whose stages have the given val accuracies, nested: what an early stage gets right, later ones mostly do.

    ``others`` adds rows: {(metric, split): values by depth}.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.permutation(np.linspace(0, 1, n, endpoint=False)) * 0.9 + rng.uniform(0, 0.1, n)
    names = [f"s{depth}" for depth in range(1, len(accuracy) + 1)]
    parts = []
    for depth, share in enumerate(accuracy, start=1):
        right = difficulty < np.quantile(difficulty, share) if share < 1 else np.ones(n, bool)
        parts.append(
            pd.DataFrame(
                {
                    "split": "val",
                    "sample": np.arange(n),
                    "stage": names[depth - 1],
                    "depth": depth,
                    "source": source,
                    "label": 1,
                    "predicted": right.astype(int),
                }
            )
        )
    predictions = pd.concat(parts)[PREDICTION_COLUMNS]
    rows = []
    found = predictions.groupby("depth")["predicted"].mean()
    values = {(f"{source}_accuracy", "val"): list(found), (f"{source}_accuracy", "test"): list(found - 0.01)}
    for (metric, split), by_depth in (values | (others or {})).items():
        for depth, value in enumerate(by_depth, start=1):
            half = 2 * np.sqrt(max(value * (1 - value), 0) / n) if 0 <= value <= 1 else np.nan
            rows.append(
                {
                    "stage": names[depth - 1],
                    "depth": depth,
                    "split": split,
                    "metric": metric,
                    "class": None,
                    "value": value,
                    "low": value - half,
                    "high": value + half,
                    "n": n,
                    "seed": 0,
                    "probe": "made",
                    "note": "",
                }
            )
    attrs = {
        "stages": names,
        "classes": [str(k) for k in range(classes)],
        "strategy": strategy,
        "chance": 1 / classes,
        "patterns": correctness_patterns(predictions, names),
        "failures": [],
    }
    return metrics_frame(rows, attrs)
