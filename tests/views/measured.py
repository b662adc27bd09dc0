"""Tables of measurements of single classes, of pairs and of stages against each other."""

from lwexplain.results import metrics_frame
from lwexplain.table import TableInfo

STAGES = ["stem", "middle", "end"]


def table_of(*parts, classes=None, stages=STAGES):
    """The long table of the parts, with what a run's table says of itself."""
    rows = [row for part in parts for row in part]
    return metrics_frame(rows, TableInfo(stages=stages, classes=classes or ["cat", "dog", "cow"]))


def rows_of(
    metric,
    values,
    *,
    split="val",
    of_class=None,
    half=None,
    stages=STAGES,
    note="",
):
    """One row a stage; ``half`` is half the width of the interval."""
    return [
        {
            "stage": stage, "depth": stages.index(stage) + 1, "split": split, "metric": metric, "class": of_class,
            "value": float(value), "low": None if half is None else value - half,
            "high": None if half is None else value + half, "n": 50, "seed": 0, "probe": "made", "note": note,
        }
        for stage, value in zip(stages, values, strict=True)
    ]  # fmt: skip
