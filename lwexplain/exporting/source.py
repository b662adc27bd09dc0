"""What is exported from: the trained stages of a run, its images, and how it saw them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lwexplain.data.dataset import DataSplits
from lwexplain.exporting.figures import pixel_batches
from lwexplain.exporting.parity import PARITY_BATCHES
from lwexplain.exporting.shorter_network import Normalisation
from lwexplain.models.staged import StagedModel
from lwexplain.run import Run
from lwexplain.training.trained import open_trained, trained_part


@dataclass(frozen=True)
class ExportSource:
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


def open_source(run: Run, device: str | None) -> ExportSource:
    """Weights and images of a trained run; raises what ``open_trained`` raises."""
    trained = open_trained(run, device)
    data, config = trained.data, trained.config
    normalisation = Normalisation(data.mean, data.std).to(trained.device)
    settings = config.data.batch_size, config.data.workers, config.seed
    return ExportSource(trained_part(trained), normalisation, data, trained.device, *settings)


def depth_of(model: StagedModel, asked: int | str) -> int:
    """The depth of a stage given by name or number (also as text); raises ModelError where there is none."""
    if isinstance(asked, str) and asked not in model.names and asked.isdecimal():
        return model.depth_of(int(asked))
    return model.depth_of(asked)
