"""What is exported from: the stages of a run, its images, and how its network saw them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lwexplain.capture.extract import Captured, extract
from lwexplain.data.batches import Batches
from lwexplain.errors import ExportError
from lwexplain.exporting.figures import pixel_batches
from lwexplain.exporting.parity import PARITY_BATCHES
from lwexplain.exporting.shorter_network import Normalisation
from lwexplain.models.cutting import CutNetwork
from lwexplain.models.staged import StagedModel
from lwexplain.training.trained import Trained, trained_part


class ExportSource(ABC):
    """The stages of a run on ``device`` with the heads they have, and its images, read as its network took them.

    ``data_name`` says what the images are, ``classes`` and ``shape`` (C, H, W) what they are of; ``value_range`` is
    that of the images that a file takes, None where they are to be normalised as for the network itself.
    """

    model: StagedModel | CutNetwork
    normalisation: nn.Module
    device: torch.device
    seed: int
    data_name: str
    classes: list[str]
    shape: tuple[int, int, int]
    value_range: tuple[float, float] | None = (0, 1)

    @abstractmethod
    def size(self, split: str) -> int:
        """Number of images of a split."""

    @abstractmethod
    def pixels(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, H, W) float32 as a file takes them and labels (B,) of a split, on the CPU."""

    @abstractmethod
    def features(self, stages: Sequence[str], folder: Path) -> Mapping[str, Captured]:
        """Features of train and val at stages, pooled as a head that is fitted on them pools; ``folder`` is for large
        arrays."""

    @property
    @abstractmethod
    def full(self) -> nn.Module:
        """From images as a file takes them to the logits of the full depth with its own head."""

    @property
    def staged(self) -> StagedModel:
        """The stages one by one; raises ExportError where the network cannot be had like that."""
        if isinstance(self.model, StagedModel):
            return self.model
        if self.model.staged is None:
            raise ExportError(
                f"early exits need the network as a row of stages, and it cannot be cut into one "
                f"({self.model.not_staged}); leave early_exit out"
            )
        return self.model.staged

    @property
    def some_images(self) -> Tensor:
        """The first images of val, (7, C, H, W) float32 as a file takes them, on the CPU; all of them where there are
        fewer."""
        found: list[Tensor] = []
        for images, _ in self.pixels("val"):
            found.append(images)
            if sum(map(len, found)) >= max(PARITY_BATCHES):
                break
        return torch.cat(found)[: max(PARITY_BATCHES)]


class TrainedSource(ExportSource):
    """A run that lwexplain trained."""

    def __init__(self, trained: Trained) -> None:
        data, config = trained.data, trained.config
        self.model: StagedModel = trained_part(trained)
        self.normalisation = Normalisation(data.mean, data.std).to(trained.device)
        self.device, self.seed = trained.device, config.seed
        self.data_name, self.classes, self.shape = data.name, data.classes, data.shape
        self._data, self._batch_size, self._workers = data, config.data.batch_size, config.data.workers

    def size(self, split: str) -> int:
        return len(getattr(self._data, split))

    def pixels(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        return pixel_batches(getattr(self._data, split), self._batch_size, self._workers)

    def features(self, stages: Sequence[str], folder: Path) -> Mapping[str, Captured]:
        data, model = self._data, self.model
        modules = {name: model.stages[name] for name in stages}
        captured = {}
        for split in ("train", "val"):
            batches = Batches(
                getattr(data, split),
                self._batch_size,
                mean=data.mean,
                std=data.std,
                seed=self.seed,
                device=self.device,
                workers=self._workers,
                channels_last=True,
            )
            captured[split] = extract(
                model,
                batches,
                stages,
                modules=modules,
                device=self.device,
                store=folder / split,
                reading=model.token_reading,
            )
        return captured

    @property
    def full(self) -> nn.Module:
        model = self.model
        return nn.Sequential(self.normalisation, model.truncated(model.depth)).eval()


def depth_of(model: StagedModel | CutNetwork, asked: int | str) -> int:
    """The depth of a stage given by name or number (also as text); raises ModelError where there is none."""
    if isinstance(asked, str) and asked not in model.names and asked.isdecimal():
        return model.depth_of(int(asked))
    return model.depth_of(asked)
