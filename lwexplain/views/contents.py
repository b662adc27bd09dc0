"""What a run directory holds for a page to show, checked: a run from a stranger may lack or break any part."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from lwexplain.advice.curve import ACCURACY_SOURCES
from lwexplain.advice.objective import budgets_in_words, measured
from lwexplain.advice.prospects import Prospect
from lwexplain.advice.recommend import Recommendation
from lwexplain.costs import COSTS, is_cost
from lwexplain.errors import RunError
from lwexplain.metrics import is_accuracy
from lwexplain.results import EMBEDDING_COLUMNS, PREDICTION_COLUMNS, checked_table, embedding_file
from lwexplain.results.checks import check_embedding, check_predictions
from lwexplain.run import Run
from lwexplain.table import TableInfo, per_depth, without_info
from lwexplain.views.depth_curve import accuracy_metrics
from lwexplain.views.metrics import Metrics, title_of
from lwexplain.views.sample_depth import sample_depth_source
from lwexplain.views.single_classes import of_a_pair, of_one_class

VERDICT_TITLES = {
    "stop_here": "Stop early",
    "use_full_depth": "Use the full depth",
    "go_deeper": "Go deeper",
    "heads_too_weak": "The heads are too weak to judge",
    "undertrained": "Train it further first",
    "no_signal": "No signal to decide on",
}

# Accuracy of these sources decides; a recommendation names one of them.
SOURCE_TITLES = {
    "head": "the trained head of each stage",
    "linear_probe": "linear probes and receptive fields, as a model of retrained networks weighs them",
}


def checked_predictions(run: Run) -> pd.DataFrame:
    """Per-sample predictions; raises RunError where they are missing or damaged."""
    return checked_table(run, "analysis/predictions.parquet", check_predictions, PREDICTION_COLUMNS)


def checked_embedding(run: Run, method: str) -> pd.DataFrame:
    """One embedding table; raises RunError where it is missing or damaged."""
    return checked_table(run, embedding_file(run, method), check_embedding, EMBEDDING_COLUMNS)


def stage_names(table: pd.DataFrame) -> list[str]:
    """Stages in order of depth."""
    named = TableInfo.of(table).stages
    return named or [str(name) for name in table.sort_values("depth")["stage"].drop_duplicates()]


def class_names(table: pd.DataFrame) -> list[str]:
    """Class names; empty where the table does not carry them."""
    return TableInfo.of(table).classes


def failures(table: pd.DataFrame) -> pd.DataFrame:
    """Probes that raised: ``probe, stage, error``."""
    columns = ["probe", "stage", "error"]
    rows = [[failure[key] or "" for key in columns] for failure in TableInfo.of(table).failures]
    return pd.DataFrame(rows, columns=columns)


def notes(table: pd.DataFrame) -> list[str]:
    """What a reader must know of the measurements (sub-samples, no convergence), each with its metrics.

    Where a note is not of all the stages, they are named. First comes what was noted when the images were read
    and of the analysis as a whole, then a forward pass in less than float32.
    """
    info = TableInfo.of(table)
    known, table = Metrics.of(table), without_info(table)
    noted = table.loc[table["note"].fillna("") != "", ["note", "metric", "stage", "depth"]]
    noted = noted.assign(note=noted["note"].str.split("; ")).explode("note").drop_duplicates().sort_values("depth")
    measured = table.groupby("metric")["stage"].nunique()
    lines = []
    for note, part in noted.groupby("note", sort=False):
        metrics = sorted({str(metric) for metric in part["metric"]})
        everywhere = part["stage"].nunique() >= max(measured[metric] for metric in metrics)
        where = "" if everywhere else f", at {', '.join(map(str, part['stage'].unique()))}"
        titles = dict.fromkeys(known.title(metric) for metric in metrics)
        lines.append((not everywhere, f"{note}: {', '.join(titles)}{where}"))
    told = [line for _, line in sorted(lines, key=lambda item: item[0])]
    forward = [info.forward] if info.forward.startswith("bfloat16") else []
    return [*info.data_notes, *info.notes, *forward, *told]


def stage_predictions(predictions: pd.DataFrame, stage: str) -> pd.Series:
    """Predicted class by val sample at one stage: from its trained head, else from the linear probe."""
    part = predictions[(predictions["split"] == "val") & (predictions["stage"] == stage)]
    for source in ACCURACY_SOURCES:
        chosen = part[part["source"] == source]
        if not chosen.empty:
            return chosen.drop_duplicates("sample").set_index("sample")["predicted"]
    return pd.Series(dtype="int64")


def depth_table(table: pd.DataFrame, split: str = "val") -> pd.DataFrame:
    """A row for each depth: stage, each accuracy with its 95 % interval as text, and the costs.

    Cost columns hold numbers of one image in the units that ``lwexplain.costs`` shows them in.
    """
    rows = table[["depth", "stage"]].drop_duplicates("depth").sort_values("depth")
    frame, known = rows.set_index("depth"), Metrics.of(table)
    for metric in accuracy_metrics(table):
        found = per_depth(table, metric, split)
        if not found.empty:
            texts = [_with_interval(row) for row in found.to_dict("records")]
            title = known.title(metric)
            title = f"{title} ({metric})" if title in frame else title  # of another probe that calls it alike
            frame[title] = pd.Series(texts, index=found["depth"], dtype="object")
    for kind in COSTS.values():
        found = per_depth(table, kind.metric, "none")
        if not found.empty:
            frame[kind.heading] = found.set_index("depth")["value"] * kind.scale
    return frame.reset_index()


def further_measurements(table: pd.DataFrame) -> pd.DataFrame:
    """What no chart shows: values on other splits and of classes that the run does not name.

    A row for each metric, split and class (``all``: of all together), and a column of numbers for each stage.
    """
    known, rows, table = Metrics.of(table), without_info(table)[~_charted(table)], without_info(table)
    stages = table.drop_duplicates("stage").sort_values("depth")
    titles = {stage: f"{depth}: {stage}" for stage, depth in zip(stages["stage"], stages["depth"], strict=True)}
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows.to_dict("records"):
        of_class = "all" if pd.isna(row["class"]) else str(row["class"])
        values = found.setdefault((str(row["metric"]), str(row["split"]), of_class), {})
        values[titles[row["stage"]]] = float(row["value"])
    return pd.DataFrame(
        [
            {"metric": known.title(metric), "split": split, "class": of_class} | values
            for (metric, split, of_class), values in found.items()
        ],
        columns=["metric", "split", "class", *titles.values()],
    )


def _charted(table: pd.DataFrame) -> pd.Series:
    """Which rows a chart shows, single classes, pairs of them and similarities of stages included."""
    known, single, table = Metrics.of(table), of_one_class(table) | of_a_pair(table), without_info(table)
    metrics, splits = table["metric"].astype(str), table["split"]
    accuracy, cost = metrics.map(is_accuracy), metrics.map(is_cost)
    similarity = known.which(metrics, known.is_similarity)
    on_val = set(metrics[(splits == "val") & table["class"].isna()])
    whole = (accuracy & splits.isin(["val", "test"])) | ((splits == "none") & ~accuracy)
    whole |= ~accuracy & ~cost & (splits == "val")
    whole |= ~accuracy & ~cost & (splits == "train") & metrics.isin(on_val)  # the pale line beside that of val
    whole &= ~known.which(metrics, known.is_sample_depth) | metrics.str.startswith(f"{sample_depth_source(table)}_")
    return (whole & table["class"].isna()) | (similarity & (splits == "val")) | single


def layout_quality(table: pd.DataFrame, method: str) -> str:
    """How true the layouts of a method are, from the worst stage to the best, in a sentence; "" where not measured."""
    prefix = "" if method == "umap" else f"{method}_"
    parts = []
    for metric, title in (("trustworthiness", "trustworthiness"), ("neighbors_kept", "share of neighbours kept")):
        values = per_depth(table, f"{prefix}{metric}", "val")["value"]
        if not values.empty:
            parts.append(f"{title} {values.min():.2f} to {values.max():.2f}")
    text = ", ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _with_interval(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["low"]) or pd.isna(row["high"]):
        return f"{row['value']:.4f}"
    return f"{row['value']:.4f}  [{row['low']:.3f}, {row['high']:.3f}]"


def is_sequential(run: Run) -> bool:
    """True where the stages were trained one after another."""
    try:
        return run.config().get("training", {}).get("strategy") == "greedy"
    except (RunError, AttributeError):
        return False


def training_costs(run: Run) -> str | None:
    """What training took, in a sentence; None where the run does not say."""
    costs = run.manifest.get("costs")
    if not isinstance(costs, Mapping):
        return None
    try:
        seconds, images = float(run.manifest["seconds"]), float(costs["images_per_second"])
        kept, peak = float(costs["activation_bytes"]) / 2**20, float(costs["peak_memory_bytes"]) / 2**20
    except (KeyError, TypeError, ValueError):
        return None
    sentence = (
        f"{seconds:,.0f} s in all, {images:,.0f} images/s in the last epoch. "
        f"A step keeps up to {kept:,.1f} MiB of activations; the process took {peak:,.0f} MiB at most."
    )
    stopped = run.manifest.get("stopped")
    return f"{sentence} Stopped early: {stopped}." if stopped else sentence


def saving(ratio: float | None) -> str | None:
    """A cost ratio as what is saved: 0.25 -> ``75 %``; None where it was not measured."""
    return None if ratio is None or pd.isna(ratio) else f"{100 * (1 - ratio):.0f} %"


def band(advice: Recommendation | None) -> float | None:
    """The tolerance to draw around the best of the curve that decides; None where more than that curve decides."""
    return advice.tolerance if advice is not None and advice.source == "head" else None


def judged_by(advice: Recommendation) -> str:
    """Whose accuracy decided, as the charts call it: ``trained head`` or ``linear probe``."""
    return title_of(f"{advice.source}_accuracy")


def expected_accuracy_title(advice: Recommendation, table: pd.DataFrame) -> str:
    """``expected test accuracy``; of val where the accuracy that decided was not measured on test."""
    on_test = per_depth(table, f"{advice.source}_accuracy", "test")
    return f"expected {'test' if (on_test['depth'] == advice.depth).any() else 'val'} accuracy"


def advice_numbers(advice: Recommendation | None, table: pd.DataFrame) -> list[tuple[str, str, str]]:
    """What a recommendation promises and saves: (title, value, remark) each; empty without one.

    ``table`` is the long table it was made from.
    """
    if advice is None:
        return []
    if advice.depth is None or advice.depth_interval is None:
        return own_numbers(advice)
    numbers = []
    if advice.expected_accuracy is not None and advice.expected_accuracy_interval is not None:
        low, high = advice.expected_accuracy_interval
        title = expected_accuracy_title(advice, table)
        numbers.append((title, f"{advice.expected_accuracy:.4f}", f"90 % interval {low:.3f}–{high:.3f}"))
    shorter = advice.depth < advice.full_depth
    if shorter and advice.full_accuracy is not None and advice.expected_accuracy is not None:
        difference = advice.expected_accuracy - advice.full_accuracy
        full = "full depth" if advice.own_head_accuracy is not None else "full depth (linear probe)"
        numbers.append((full, f"{advice.full_accuracy:.4f}", f"recommended {difference:+.4f}"))
    least, most = advice.depth_interval
    numbers.append(("depth", f"{advice.depth} of {advice.full_depth}", f"90 % interval {least}–{most}"))
    for cost, ratio in advice.ratios.items():
        saved = saving(ratio)
        if shorter and saved is not None:
            numbers.append((f"{COSTS[cost].title} saved", saved, f"{ratio:.2g} of full depth"))
    return numbers + own_numbers(advice)


def own_numbers(advice: Recommendation) -> list[tuple[str, str, str]]:
    """What the whole network's own head and a linear probe of its last stage reach on val, each by itself."""
    found = (
        ("own head", "full depth on val", advice.own_head_accuracy, advice.own_head_balanced_accuracy),
        ("own probe", "last stage on val", advice.own_probe_accuracy, advice.own_probe_balanced_accuracy),
    )
    return [
        (title, f"{value:.4f}", remark if balanced is None else f"{remark}, balanced {balanced:.3f}")
        for title, remark, value, balanced in found
        if value is not None
    ]


def measured_costs(table: pd.DataFrame) -> list[str]:
    """The names of the costs that every stage of the table has a number of."""
    count = table["stage"].nunique()
    return [cost for cost, kind in COSTS.items() if len(per_depth(table, kind.metric, "none")) == count]


def objective_title(objective: str) -> str:
    """What a depth is chosen by, as a person picks it: ``fewest parameters``, ``highest accuracy``."""
    return "highest accuracy" if objective == "accuracy" else COSTS[objective].least


def chosen_by(advice: Recommendation) -> str:
    """What the depth of a recommendation was chosen by, in a sentence; "" where there is no signal to choose by."""
    chosen = next((prospect for prospect in advice.prospects if prospect.depth == advice.depth), None)
    if chosen is None:
        return ""
    among = f"the depths within {budgets_in_words(advice.budgets)}" if advice.budgets else "all depths"
    if advice.objective == "accuracy":
        return f"Chosen by: highest expected accuracy of {among}."
    if not chosen.sufficient:
        return f"Chosen by: highest expected accuracy of {among}, none of which is enough."
    by = COSTS[advice.objective].least
    if advice.objective == "params" and not measured(advice.prospects, "params"):
        by = "fewest stages (parameters were not measured)"
    return f"Chosen by: {by} of {among} that are enough."


def tightest(prospects: Sequence[Prospect], budgets: Mapping[str, float]) -> str:
    """The cost whose budget no depth keeps; the first one where only several together are too tight."""
    for name, most in budgets.items():
        if all((prospect.cost(name) or 0.0) > most for prospect in prospects):
            return name
    return next(iter(budgets))


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of a JSON tree as (dotted name, text); lists of plain values on one line."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and not any(isinstance(item, (Mapping, list)) for item in tree):
        yield prefix, ", ".join(map(str, tree))
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from flatten(item, f"{prefix}[{index}]")
    elif tree is not None:
        yield prefix, f"{tree:.6g}" if isinstance(tree, float) else str(tree)
