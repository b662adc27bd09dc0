"""Analysis tables with a known truth, made without a network."""

import numpy as np
import pandas as pd

from lwexplain.results import PREDICTION_COLUMNS, correctness_patterns, metrics_frame
from lwexplain.table import TableInfo


def table_of(accuracy, *, n=4000, source="head", strategy="greedy", classes=10, seed=0, others=None, test=None):
    """A table whose stages have the given val accuracies, nested: what an early stage gets right, later ones mostly do.

    Classes are even and have nothing to do with which samples are right. ``test``: accuracies on test, by default
    0.01 lower; ``others`` adds rows: {(metric, split): values by depth}.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    difficulty = rng.permutation(np.linspace(0, 1, n, endpoint=False)) * 0.9 + rng.uniform(0, 0.1, n)
    right = [difficulty < np.quantile(difficulty, share) if share < 1 else np.ones(n, bool) for share in accuracy]
    predicted = [np.where(hit, labels, (labels + 1) % classes) for hit in right]
    found = np.array([hit.mean() for hit in right])
    values = {(f"{source}_accuracy", "test"): list(found - 0.01 if test is None else test)}
    return table_of_predictions(
        labels, predicted, source=source, strategy=strategy, classes=classes, others=values | (others or {})
    )


def table_of_predictions(
    labels, predicted, *, source="head", strategy="greedy", classes=None, others=None, stages=None
):
    """The table of stages that predict ``predicted`` (S, N) of val samples with ``labels`` (N,).

    ``source`` may be a mapping from sources to such predictions, where ``predicted`` is None; None in place of a
    stage's predictions leaves it out.
    """
    by_source = source if predicted is None else {source: predicted}
    labels = np.asarray(labels)
    classes = classes or int(labels.max()) + 1
    count = max(len(found) for found in by_source.values())
    names = stages or [f"s{depth}" for depth in range(1, count + 1)]
    parts, rows = [], []
    for name, found in by_source.items():
        for depth, guesses in enumerate(found, start=1):
            if guesses is None:
                continue
            about = {"split": "val", "sample": np.arange(len(labels)), "stage": names[depth - 1], "depth": depth}
            parts.append(pd.DataFrame(about | {"source": name, "label": labels, "predicted": guesses}))
            share = float(np.mean(np.asarray(guesses) == labels))
            rows.append(row_of(names, f"{name}_accuracy", "val", depth, share, len(labels)))
    for (metric, split), by_depth in (others or {}).items():
        given = {row["depth"] for row in rows if (row["metric"], row["split"]) == (metric, split)}
        for depth, value in enumerate(by_depth, start=1):
            if depth not in given:
                rows.append(row_of(names, metric, split, depth, value, len(labels)))
    info = TableInfo(
        stages=names,
        classes=[str(k) for k in range(classes)],
        strategy=strategy,
        chance=float(np.bincount(labels).max() / len(labels)),
        patterns=correctness_patterns(pd.concat(parts)[PREDICTION_COLUMNS], names),
    )
    return metrics_frame(rows, info)


def row_of(names, metric, split, depth, value, n):
    """One row of the table; accuracies get a rough interval."""
    half = 2 * np.sqrt(max(value * (1 - value), 0) / n) if 0 <= value <= 1 else np.nan
    return {
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
