"""What an adopted run holds of one look at its network: written once, read without the network.

::

    run.json                         stages, classes, shape, what identifies the samples, and ``adoption``: notes
    checkpoints/last.safetensors     the weights
    analysis/features/               features, labels and the network's own logits of every split
    adopted/sample_images.npy        (M, C, H, W) float32, a few val images as the network takes them
    adopted/sample_labels.npy        (M,) int64
    adopted/sample_positions.npy     (M,) int64, their rows in val
    adopted/thumbnails.npy           uint8 (N, H, W, C), small pictures of val
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lwexplain.adoption.look import Seen
from lwexplain.adoption.sample_images import Samples
from lwexplain.arguments import shown
from lwexplain.capture.extract import Captured
from lwexplain.capture.store import FeatureStore
from lwexplain.data.batch_form import BatchForm
from lwexplain.errors import RunError
from lwexplain.results import SPLITS, AnalysisKey
from lwexplain.run import Run
from lwexplain.run.binary_files import map_array, write_array
from lwexplain.run.files import MissingFileError

FOLDER = "adopted"
MOST_SAMPLES = 10**9


def write_features(run: Run, key: AnalysisKey, captured: Mapping[str, Captured]) -> None:
    """Keep the features of all splits in the place of those of another key."""
    store = store_of(run, key)
    store.prepare()
    for split, part in captured.items():
        target = store.split(split, len(part.labels))
        for number in target.missing():
            rows = target.shards[number]
            target.add(
                number,
                Captured(
                    {name: array[rows] for name, array in part.features.items()},
                    part.labels[rows],
                    {name: array[rows] for name, array in part.logits.items()},
                    np.arange(rows.start, rows.stop, dtype=np.int64),
                ),
            )


def read_features(run: Run, key: AnalysisKey) -> dict[str, Captured] | None:
    """The features that were made for ``key``, whole; None where there are none."""
    store = store_of(run, key)
    if not store.is_current():
        return None
    found = {split: store.split(split, count).read() for split, count in sizes_of(run).items()}
    whole = {split: part for split, part in found.items() if part is not None}
    if len(whole) < len(found):
        return None
    for split, part in whole.items():
        _require_fitting(run, split, part)
    return whole


def _require_fitting(run: Run, split: str, captured: Captured) -> None:
    """Raise RunError where features are not those of the stages and classes that ``run.json`` names."""
    stages, classes = run.manifest.get("stages"), run.manifest.get("data", {}).get("classes", [])
    labels, count = captured.labels, len(classes)
    fits = captured.stages == stages and run.trained_depth == len(captured.stages) and len(labels) > 0
    if not fits or labels.min() < 0 or labels.max() >= count:
        raise RunError(
            f"the features of {split} under {run.analysis}/features are not those of the stages and classes that "
            f"{run.path}/run.json names; restore both from a copy of the run, or adopt the network again"
        )
    wide = [name for name, rows in captured.logits.items() if name not in captured.stages or rows.shape[1:] != (count,)]
    if wide:
        raise RunError(f"the logits of {split} in {run.path} are not those of {count} classes; adopt the network again")


def kept_val(run: Run) -> Captured:
    """The features of all val samples, however they were pooled; raises RunError where they are not there."""
    files = run.files.within("analysis/features")
    found = FeatureStore(files, {}).split("val", sizes_of(run)["val"]).read()
    if found is None:
        raise RunError(f"the features under {files.path()} are missing or damaged; adopt the network again")
    return found


def store_of(run: Run, key: AnalysisKey) -> FeatureStore:
    """The store of the features of all samples, whatever part of them an analysis takes."""
    asked = {name: value for name, value in key.to_dict().items() if name != "max_samples"}
    return FeatureStore(run.files.within("analysis/features"), {**asked, "adopted": True})


def sizes_of(run: Run) -> dict[str, int]:
    """Number of samples of each split that there is; raises RunError where the run does not say it."""
    sizes = run.manifest.get("data", {}).get("sizes")
    if not isinstance(sizes, Mapping) or not {"train", "val"} <= set(sizes):
        raise RunError(f"{run.path}/run.json does not say data.sizes; restore it from a copy of the run")
    if max(sizes.values()) > MOST_SAMPLES:
        raise RunError(f"{run.path}/run.json says data.sizes {shown(dict(sizes))}, more than a run can hold")
    return {split: int(sizes[split]) for split in SPLITS if sizes.get(split)}


def write_pictures(run: Run, seen: Seen) -> None:
    """Keep the sample images and the small pictures."""
    if seen.samples is not None:
        write_array(run.files, f"{FOLDER}/sample_images.npy", seen.samples.images.numpy())
        write_array(run.files, f"{FOLDER}/sample_labels.npy", seen.samples.labels)
        write_array(run.files, f"{FOLDER}/sample_positions.npy", seen.samples.positions)
    if seen.thumbnails is not None:
        write_array(run.files, f"{FOLDER}/thumbnails.npy", seen.thumbnails)


def read_samples(run: Run) -> Samples | None:
    """The sample images; None where there are none. Raises RunError where they do not fit the run."""
    try:
        images, labels, positions = (
            np.array(map_array(run.files, f"{FOLDER}/sample_{what}.npy")) for what in ("images", "labels", "positions")
        )
    except MissingFileError:
        return None
    shape = tuple(run.manifest.get("data", {}).get("shape", ()))
    count = len(images)
    fits = images.dtype == np.float32 and images.shape[1:] == shape and count > 0
    if not fits or any(rows.shape != (count,) or rows.dtype != np.int64 for rows in (labels, positions)):
        raise RunError(f"{run.path}/{FOLDER}/sample_images.npy does not fit the run; adopt the network again")
    classes, rows = len(run.manifest["data"]["classes"]), sizes_of(run)["val"]
    if not (labels.min() >= 0 and labels.max() < classes and positions.min() >= 0 and positions.max() < rows):
        raise RunError(f"{run.path}/{FOLDER} names classes or rows that the run does not have; adopt the network again")
    return Samples(torch.from_numpy(images), labels, positions)


def read_small_pictures(run: Run) -> np.ndarray | None:
    """Thumbnails of all val samples, memory-mapped; None where there are none."""
    try:
        pictures = map_array(run.files, f"{FOLDER}/thumbnails.npy")
    except MissingFileError:
        return None
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or len(pictures) != sizes_of(run)["val"]:
        raise RunError(f"{run.path}/{FOLDER}/thumbnails.npy does not fit the run; adopt the network again")
    return pictures


def adoption_of(run: Run) -> Mapping[str, Any]:
    """What ``run.json`` says of the adoption."""
    about = run.manifest.get("adoption")
    return about if isinstance(about, Mapping) else {}


def form_of(run: Run) -> BatchForm:
    """What the images of the run are normalised by, as far as it was said."""
    data = run.manifest.get("data", {})
    return BatchForm(None, tuple(data.get("mean") or ()), tuple(data.get("std") or ()))


def has_final_norm(run: Run) -> bool:
    """Whether the features of the run passed through the network's own final normalisation."""
    return adoption_of(run).get("final_norm") is True
