"""How alike the stages of two runs represent the same images."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

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
    shape than those of the other run."""
    one, other = open_trained(first, device), open_trained(second, device)
    if one.data.shape != other.data.shape:
        raise RunError(
            f"{first.path} takes images of shape {one.data.shape}, {second.path} of {other.data.shape}; "
            "only runs on images of one shape can be compared stage by stage"
        )
    val = one.data.val
    size = min(max_samples, len(val))
    images = val.subset(stratified_subset(val.labels, size, one.config.seed))
    features = [_features(trained, images) for trained in (one, other)]
    linear, rbf = similarity_matrix(list(features[0].values()), list(features[1].values()))
    rows = [
        [stage, i + 1, other_stage, j + 1, float(linear[i, j]), float(rbf[i, j])]
        for i, stage in enumerate(features[0])
        for j, other_stage in enumerate(features[1])
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return attach(table, {"runs": [first.name, second.name], "n": size})


def _features(trained: Trained, images: Images) -> Mapping[str, np.ndarray]:
    """The features that a run's stages make of images, normalised as the run was trained."""
    data, device, names = trained.data, trained.device, trained.stages
    batches = Batches(images, 256, mean=data.mean, std=data.std, seed=0, device=device, channels_last=True)
    modules = {name: trained.model.stages[name] for name in names}
    reading = trained.model.token_reading
    return extract(trained.model, batches, names, modules=modules, device=device, reading=reading).features
