"""Run directories made of generated numbers: no training, no torch, in well under a second."""

import numpy as np
import pandas as pd

from lwexplain.config import Config
from lwexplain.results import Analysis, AttributionSet, correctness_patterns, metrics_frame, write_analysis
from lwexplain.run import Run
from lwexplain.table import TableInfo

STAGES = ["stem", "block1", "block2", "block3", "block4", "block5"]
ACCURACY = [0.55, 0.82, 0.952, 0.960, 0.972, 0.968]
CLASSES = [str(digit) for digit in range(10)]
N = 400  # val samples
PARAMETERS = [1_000, 6_000, 24_000, 90_000, 350_000, 1_400_000]


def make_run(
    path,
    *,
    strategy="greedy",
    accuracy=ACCURACY,
    classes=CLASSES,
    status="trained",
    analyzed=True,
    pictures=True,
    custom_metric="my_metric",
    failures=None,
    note="",
    seed=0,
):
    """One run of six stages; ``pictures`` adds embeddings, thumbnails and attributions."""
    config = Config.model_validate({"seed": seed, "training": {"strategy": strategy, "epochs": 3}})
    run = Run.create(path, config.to_yaml())
    trained = len(STAGES) if status == "trained" else 2
    _log_training(run, strategy, accuracy[:trained])
    run.update(
        status=status,
        strategy=strategy,
        stages=STAGES,
        progress=f"all of {trained} stages" if status == "trained" else "phase 3 of 6: block2, epoch 2 of 3",
        data={"name": "digits", "fingerprint": "0123456789abcdef"},
    )
    if status == "trained":
        run.update(
            seconds=12.5,
            costs={"images_per_second": 1234.5, "activation_bytes": 3 * 2**20, "peak_memory_bytes": 700 * 2**20},
        )
    if analyzed:
        write_analysis(run, _analysis(strategy, accuracy, classes, pictures, custom_metric, failures or [], note, seed))
    return run


def _log_training(run, strategy, accuracy):
    if strategy == "greedy":
        order = [(depth, epoch) for depth in range(len(accuracy)) for epoch in (1, 2, 3)]
    elif strategy == "decoupled":
        order = [(depth, epoch) for epoch in (1, 2, 3) for depth in range(len(accuracy))]
    else:
        order = [(len(accuracy) - 1, epoch) for epoch in (1, 2, 3)]
    for depth, epoch in order:
        value = accuracy[depth] * (0.8 + 0.2 * epoch / 3)
        run.append_event(
            event="epoch", stage=STAGES[depth], depth=depth + 1, epoch=epoch, epochs=3,
            train_loss=round(2.3 * (1.02 - value), 4), train_accuracy=round(min(1.0, value + 0.01), 4),
            val_loss=round(2.3 * (1.05 - value), 4), val_accuracy=round(value, 4),
            lr=0.1, seconds=1.5, images_per_second=900.0, peak_memory_bytes=10**8,
        )  # fmt: skip


def _predict(labels, accuracy, difficulty, classes):
    """Right where the sample's difficulty lies below ``accuracy``: the stages agree on what is hard."""
    return np.where(difficulty < accuracy, labels, (labels + 1) % classes).astype(np.int64)


def _analysis(
    strategy,
    accuracy,
    classes,
    pictures,
    custom_metric,
    failures,
    note,
    seed,
):
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % len(classes)
    difficulty = (rng.permutation(N) + 0.5) / N
    predictions, rows = [], []
    # A net trained by back-propagation has one head, at its end.
    heads = range(len(STAGES)) if strategy != "bp" else [len(STAGES) - 1]

    for split in ("val", "test"):
        for index, stage in enumerate(STAGES):
            noisy = np.clip(difficulty + rng.normal(0, 0.01, N), 0, 1)
            sources = {"linear_probe": accuracy[index] - (0.01 if strategy != "bp" else 0.0)}
            if index in heads:
                sources["head"] = accuracy[index]
            for source, level in sources.items():
                predicted = _predict(labels, level, noisy, len(classes))
                right = float((predicted == labels).mean())
                rows.append(_row(stage, index, split, f"{source}_accuracy", right, source, interval=0.02, n=N))
                predictions.append(
                    pd.DataFrame(
                        {"split": split, "sample": np.arange(N), "stage": stage, "depth": index + 1,
                         "source": source, "label": labels, "predicted": predicted}
                    )
                )  # fmt: skip
            rows.append(_row(stage, index, split, "knn_accuracy", accuracy[index] - 0.03, "neighbours", 0.025, N))
    for index, stage in enumerate(STAGES):
        values = {
            "separability_index": accuracy[index] - 0.05,
            "fisher_ratio": 0.4 + index,
            "silhouette": -0.1 + 0.12 * index,
            "davies_bouldin": 4.0 - 0.5 * index,
            "gdv": -0.05 - 0.08 * index,
            custom_metric: 0.5 + 0.1 * (index % 2),
        }
        for metric, value in values.items():
            rows.append(_row(stage, index, "val", metric, value, "separability", note=note, n=N))
        rows.append(_row(stage, index, "none", "parameters", PARAMETERS[index], "cost"))
        rows.append(_row(stage, index, "none", "flops", 1e6 * (index + 1) ** 2, "cost"))
        rows.append(_row(stage, index, "none", "latency_seconds", 0.0004 * (index + 1), "cost"))
        rows.append(_row(stage, index, "none", "memory_bytes", 4.0 * PARAMETERS[index] + 50_000, "cost"))
    table = pd.concat(predictions, ignore_index=True)
    info = TableInfo(
        stages=STAGES,
        classes=classes,
        strategy=strategy,
        patterns=correctness_patterns(table, STAGES),
        failures=failures,
    )
    analysis = Analysis(
        metrics=metrics_frame(rows, info),
        predictions=table,
        summary={"created": "2026-01-02T03:04:05+00:00", "seconds": {"linear": 1.5, "separability": 0.5}},
    )
    if pictures:
        _add_pictures(analysis, labels, classes, rng)
    return analysis


def _row(
    stage,
    index,
    split,
    metric,
    value,
    probe,
    interval=None,
    n=None,
    note="",
):
    return {
        "stage": stage, "depth": index + 1, "split": split, "metric": metric, "class": None, "value": value,
        "low": None if interval is None else value - interval,
        "high": None if interval is None else min(1.0, value + interval),
        "n": n, "seed": 0, "probe": probe, "note": note,
    }  # fmt: skip


def _add_pictures(analysis, labels, classes, rng):
    count = len(classes)
    angle = 2 * np.pi * labels / count
    centres = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for method in ("pca", "umap"):
        parts = []
        for index, stage in enumerate(STAGES):
            points = centres * (1 + index) + rng.normal(0, 1.2 - 0.15 * index, (N, 2))
            parts.append(
                pd.DataFrame(
                    {"stage": stage, "depth": index + 1, "split": "val", "sample": np.arange(N), "label": labels,
                     "x": points[:, 0].astype(np.float32), "y": points[:, 1].astype(np.float32)}
                )
            )  # fmt: skip
        analysis.embeddings[method] = pd.concat(parts, ignore_index=True)
    shapes = rng.integers(0, 255, (count, 8, 8, 1))
    analysis.thumbnails = np.clip(shapes[labels] + rng.normal(0, 20, (N, 8, 8, 1)), 0, 255).astype(np.uint8)
    shown = 6
    analysis.attribution_images = analysis.thumbnails[:shown]
    analysis.attribution_labels = labels[:shown]
    targets = np.repeat(labels[:shown][None], len(STAGES), axis=0)
    targets[0] = (targets[0] + 1) % count
    for method, broken in (("gradcam", []), ("integrated_gradients", [1])):
        valid = [index not in broken for index in range(len(STAGES))]
        analysis.attributions[method] = AttributionSet(
            method=method,
            stages=list(STAGES),
            maps=rng.normal(0, 1, (len(STAGES), shown, 8, 8)).astype(np.float32),
            targets=targets,
            valid=valid,
            notes=["" if good else "completeness residual 0.41 exceeds 0.05" for good in valid],
            image_notes=[[""] * (shown - 1) + ["no better than chance: insertion gain -0.1, deletion gain -0.2"]]
            * len(STAGES),
        )
