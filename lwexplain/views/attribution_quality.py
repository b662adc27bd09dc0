"""The quality of attributions, as the probe measured it, for the report and the app."""

import pandas as pd

QUALITY = {
    "completeness_residual": "completeness residual",
    "completeness_residual_max": "worst residual",
    "insertion_gain": "insertion gain",
    "deletion_gain": "deletion gain",
    "max_sensitivity": "max-sensitivity",
    "randomisation_correlation": "randomisation correlation",
}
"""What follows the method's name in a metric, and its title."""

EXPLANATION = (
    "Completeness residual: how far the sum of a map is off from the logit difference to the baseline, as a share of "
    "it. Insertion and deletion gain: area against random orders of the pixels, positive where the map is better than "
    "chance. Max-sensitivity: relative change under small noise. Randomisation correlation: with the maps of the same "
    "network with shuffled weights; near 1, the map does not depend on what was learnt."
)


def is_attribution_quality(metric: str) -> bool:
    """Whether a metric says how good an attribution method's maps are."""
    return any(metric.endswith(f"_{what}") for what in QUALITY)


def attribution_quality(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """One row a stage, in order of depth: ``stage`` and a column of numbers for each figure that was measured.

    ``table`` is the metrics table. Empty where nothing was measured for the method.
    """
    metrics = {f"{method}_{what}": title for what, title in QUALITY.items()}
    rows = table[table["metric"].isin(list(metrics)) & (table["split"] == "val") & table["class"].isna()]
    wide = rows.drop_duplicates(["metric", "depth"]).pivot(index=["depth", "stage"], columns="metric", values="value")
    found = wide.sort_index()[[metric for metric in metrics if metric in wide]].rename(columns=metrics)
    return found.reset_index().drop(columns="depth").rename_axis(columns=None)
