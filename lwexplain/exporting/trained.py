"""What is exported from: the trained stages of a run, its images, and how it saw them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lwexplain.analysis.analyze_run import load_trained
from lwexplain.data.dataset import DataSplits
from lwexplain.data.load import load_data
from lwexplain.data.same_data import require_same_data
from lwexplain.devices import pick_device
from lwexplain.exporting.figures import pixel_batches
from lwexplain.exporting.parity import PARITY_BATCHES
from lwexplain.exporting.shorter_network import Normalisation
from lwexplain.models.staged import StagedModel
from lwexplain.run import Run
from lwexplain.stored_config import config_of_run


@dataclass(frozen=True)
class TrainedRun:
    """The trained stages of a run on ``device`` with the heads they have, and its images, read as in its training."""

    model: StagedModel
    normalisation: Normalisation
    data: DataSplits
    device: torch.device
    batch_size: int
    workers: int
    seed: int

    def pixels(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, H, W) float32 in [0, 1] and labels (B,) of a split, on the CPU."""
        return pixel_batches(getattr(self.data, split), self.batch_size, self.workers)

    @property
    def some_images(self) -> Tensor:
        """The first images of val, (7, C, H, W) float32 in [0, 1] on the CPU; all of them where there are fewer."""
        return next(pixel_batches(self.data.val, max(PARITY_BATCHES)))[0]


def load_run(run: Run, device: str | None) -> TrainedRun:
    """Weights and images of a trained run; raises RunError where the images are not those it was trained on."""
    config = config_of_run(run)
    data = load_data(config.data, config.seed)
    require_same_data(data, run)
    where = pick_device(device or config.device)
    model, _ = load_trained(run, data, where)
    model = trained_stages(model, run.trained_depth)
    normalisation = Normalisation(data.mean, data.std).to(where)
    return TrainedRun(model, normalisation, data, where, config.data.batch_size, config.data.workers, config.seed)


def depth_of(model: StagedModel, asked: int | str) -> int:
    """The depth of a stage given by name or number (also as text); raises ModelError where there is none."""
    if isinstance(asked, str) and asked not in model.names and asked.isdecimal():
        return model.depth_of(int(asked))
    return model.depth_of(asked)


def trained_stages(model: StagedModel, depth: int) -> StagedModel:
    """The first ``depth`` stages with the heads they have: what training got to, sharing the modules."""
    trained = StagedModel(dict(list(model.stages.items())[:depth]), model.input_shape, model.num_classes)
    for head_depth in model.head_depths:
        if head_depth <= depth:
            trained.set_head(head_depth, model.head(head_depth))
    return trained.eval()
