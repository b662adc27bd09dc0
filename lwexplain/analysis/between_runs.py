"""How alike the stages of two runs represent the same images."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from lwexplain.analysis.analyze_run import load_trained
from lwexplain.capture.extract import extract
from lwexplain.data.batches import Batches
from lwexplain.data.dataset import DataSplits, Images
from lwexplain.data.load import load_data
from lwexplain.data.splits import stratified_subset
from lwexplain.devices import pick_device
from lwexplain.errors import RunError
from lwexplain.probes.similarity.probe import similarity_matrix
from lwexplain.run import Run
from lwexplain.stored_config import config_of_run

COLUMNS = ["stage", "depth", "other_stage", "other_depth", "cka_linear", "cka_rbf"]


def similarity_of_runs(first: Run, second: Run, *, max_samples: int, device: str | None = None) -> pd.DataFrame:
    """Unbiased linear and RBF CKA between every stage of ``first`` and every stage of ``second``; see
    ``lw.similarity``."""
    one, other = _data_of(first), _data_of(second)
    if one.shape != other.shape:
        raise RunError(
            f"{first.path} takes images of shape {one.shape}, {second.path} of {other.shape}; "
            "only runs on images of one shape can be compared stage by stage"
        )
    size = min(max_samples, len(one.val))
    images = one.val.subset(stratified_subset(one.val.labels, size, config_of_run(first).seed))
    features = [_features(run, data, images, device) for run, data in ((first, one), (second, other))]
    linear, rbf = similarity_matrix(list(features[0].values()), list(features[1].values()))
    rows = [
        [stage, i + 1, other_stage, j + 1, float(linear[i, j]), float(rbf[i, j])]
        for i, stage in enumerate(features[0])
        for j, other_stage in enumerate(features[1])
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.attrs.update({"runs": [first.name, second.name], "n": size})
    return table


def _data_of(run: Run) -> DataSplits:
    run.require_trained()
    config = config_of_run(run)
    return load_data(config.data, config.seed)


def _features(run: Run, data: DataSplits, images: Images, device: str | None) -> Mapping[str, np.ndarray]:
    """The features that a run's stages make of images, normalised as the run was trained."""
    where = pick_device(device or config_of_run(run).device)
    model, _ = load_trained(run, data, torch.device(where))
    names = model.names[: run.trained_depth]
    batches = Batches(images, 256, mean=data.mean, std=data.std, seed=0, device=where, channels_last=True)
    return extract(model, batches, names, modules={name: model.stages[name] for name in names}, device=where).features
