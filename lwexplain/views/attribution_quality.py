"""The quality of attributions, as the probe measured it, for the report and the app."""

import pandas as pd

from lwexplain.probes.metrics.attribution import ENDINGS
from lwexplain.results import AttributionSet
from lwexplain.table import overall

EXPLANATION = (
    "Maps of a stage are valid where three things hold; a single map also where its own figures do. They add up: the "
    "completeness residual says how far the sum of a map is off from the logit difference to the baseline, as a share "
    "of it, over all images, at worst, and for which share of images it is too large. They beat chance: insertion and "
    "deletion gain are areas against random orders of the pixels, and one of them must be above 0 with its whole "
    "interval. They show the network and not only the image: randomisation correlation is that with the maps of the "
    "same network with shuffled weights, about the share of a map that the image alone decides (at most 0.5; of the "
    "strength of the map without its signs at most 0.6), and edge correlation that with an edge detector of the image, "
    "before and after shuffling (not both above 0.7). Max-sensitivity, the relative change under small noise, decides "
    "nothing."
)


def attribution_quality(table: pd.DataFrame, item: AttributionSet) -> pd.DataFrame:
    """A row for each stage of the method's maps: ``stage``, ``valid`` (yes or no), ``valid images`` (``10 of 12``), and
    a column of numbers for each figure that was measured.

    ``table`` is the metrics table.
    """
    metrics = {f"{item.method}_{ending}": what.title for ending, what in ENDINGS.items()}
    rows = overall(table)
    rows = rows[rows["metric"].isin(list(metrics)) & (rows["split"] == "val")]
    wide = rows.drop_duplicates(["metric", "stage"]).pivot(index="stage", columns="metric", values="value")
    figures = wide[[metric for metric in metrics if metric in wide]].rename(columns=metrics).reindex(item.stages)
    good = [
        sum(not note for note in notes) if valid else 0
        for valid, notes in zip(item.valid, item.image_notes, strict=True)
    ]
    validity = pd.DataFrame(
        {
            "stage": item.stages,
            "valid": ["yes" if valid else "no" for valid in item.valid],
            "valid images": [f"{n} of {len(notes)}" for n, notes in zip(good, item.image_notes, strict=True)],
        }
    )
    return pd.concat([validity, figures.reset_index(drop=True)], axis=1).rename_axis(columns=None)
