"""How alike the stages of two runs represent the same images."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lwexplain.adoption.kept import adoption_of, kept_val
from lwexplain.capture.extract import extract
from lwexplain.data.batches import Batches
from lwexplain.data.dataset import Images
from lwexplain.data.splits import stratified_subset
from lwexplain.errors import RunError
from lwexplain.probes.similarity.probe import similarity_matrix
from lwexplain.run import Run
from lwexplain.table import attach
from lwexplain.training.trained import Trained, open_trained

COLUMNS = ["stage", "depth", "other_stage", "other_depth", "cka_linear", "cka_rbf"]


def similarity_of_runs(first: Run, second: Run, *, max_samples: int, device: str | None = None) -> pd.DataFrame:
    """Unbiased linear and RBF CKA between every stage of ``first`` and every stage of ``second``; see
    ``lw.similarity``. Raises RunError where the images of a run are not those it was trained on, or are of another
    shape than those of the other run; and for an adopted run where the other one has other val images."""
    if first.is_adopted or second.is_adopted:
        features = _of_the_same_images(first, second, max_samples, device)
    else:
        features = _of_images_of_first(first, second, max_samples, device)
    linear, rbf = similarity_matrix(list(features[0].values()), list(features[1].values()))
    rows = [
        [stage, i + 1, other_stage, j + 1, float(linear[i, j]), float(rbf[i, j])]
        for i, stage in enumerate(features[0])
        for j, other_stage in enumerate(features[1])
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    count = len(next(iter(features[0].values())))
    return attach(table, {"runs": [first.name, second.name], "n": count})


Features = Mapping[str, np.ndarray]


def _of_images_of_first(first: Run, second: Run, most: int, device: str | None) -> list[Features]:
    """What both trained networks make of val images of the first."""
    one, other = open_trained(first, device), open_trained(second, device)
    if one.data.shape != other.data.shape:
        raise RunError(
            f"{first.path} takes images of shape {one.data.shape}, {second.path} of {other.data.shape}; "
            "only runs on images of one shape can be compared stage by stage"
        )
    val = one.data.val
    images = val.subset(_rows(val.labels, most, one.config.seed))
    return [_features(trained, images) for trained in (one, other)]


def _of_the_same_images(first: Run, second: Run, most: int, device: str | None) -> list[Features]:
    """What both runs make of val images that they share; an adopted one has kept it."""
    for run in (first, second):
        run.require_trained()
    if _val_of(first) != _val_of(second) or not _val_of(first):
        raise RunError(
            f"{first.path} and {second.path} do not have the same val images in the same order; an adopted run is "
            "compared on those it was adopted with: adopt the network on the images of the other run"
        )
    found: list[Features] = []
    rows: Tensor | None = None
    for run in (first, second):
        if run.is_adopted:
            kept = kept_val(run)
            rows = _rows(torch.from_numpy(kept.labels), most, 0) if rows is None else rows
            found.append({name: np.asarray(array[rows.numpy()]) for name, array in kept.features.items()})
        else:
            trained = open_trained(run, device)
            val = trained.data.val
            rows = _rows(val.labels, most, 0) if rows is None else rows
            found.append(_features(trained, val.subset(rows)))
    return found


def _val_of(run: Run) -> str:
    """What identifies the val samples and their order; empty where nothing says it."""
    if run.is_adopted and (adoption_of(run).get("images") != "config" or adoption_of(run).get("max_samples")):
        return str(adoption_of(run).get("order", ""))
    return str(run.manifest.get("data", {}).get("part_fingerprints", {}).get("val", ""))


def _rows(labels: Tensor, most: int, seed: int) -> Tensor:
    return stratified_subset(labels, min(most, len(labels)), seed)


def _features(trained: Trained, images: Images) -> Mapping[str, np.ndarray]:
    """The features that a run's stages make of images, normalised as the run was trained."""
    data, device, names = trained.data, trained.device, trained.stages
    batches = Batches(images, 256, mean=data.mean, std=data.std, seed=0, device=device, channels_last=True)
    modules = {name: trained.model.stages[name] for name in names}
    reading = trained.model.token_reading
    return extract(trained.model, batches, names, modules=modules, device=device, reading=reading).features
