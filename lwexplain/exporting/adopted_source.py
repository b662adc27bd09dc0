"""An adopted run as what is exported from: its network is at hand, its features are kept."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lwexplain.adoption.adopt import POOLING
from lwexplain.adoption.kept import form_of, has_final_norm, read_features, read_samples, sizes_of
from lwexplain.adoption.live import require_live
from lwexplain.adoption.look import look
from lwexplain.capture.extract import Captured
from lwexplain.data.given_batches import checked_batches
from lwexplain.errors import ExportError, RunError
from lwexplain.exporting.shorter_network import Normalisation
from lwexplain.exporting.source import ExportSource
from lwexplain.models.cost import device_of
from lwexplain.models.cutting import cut_network
from lwexplain.results import AnalysisKey
from lwexplain.run import Run
from lwexplain.stored_config import config_of_run


class AdoptedSource(ExportSource):
    """A run of a network that somebody else trained, which this process has.

    Raises RunError where it has not, ModelError where the network cannot be cut at its stages, and ExportError where it
    can be cut by a hook alone, or was adopted without test images, on which an export is measured.
    """

    def __init__(self, run: Run) -> None:
        self._live = require_live(run, "an export")
        self._run, self._sizes = run, sizes_of(run)
        if "test" not in self._sizes:
            raise ExportError(
                f"an export is measured on test, and {run.path} was adopted without; adopt the network again with a "
                "loader of test images"
            )
        data, samples = run.manifest["data"], read_samples(run)
        if samples is None:
            raise RunError(f"{run.path} holds no sample images; adopt the network again")
        self.data_name, self.classes = str(data["name"]), [str(name) for name in data["classes"]]
        self.shape = tuple(data["shape"])
        network, form = self._live.network, form_of(run)
        self.device, self.seed = device_of(network), config_of_run(run).seed
        images = samples.images.to(self.device)
        self.model = cut_network(network, list(run.manifest["stages"]), images, len(self.classes))
        if not self.model.is_exportable:
            reasons = "; ".join(f"{way}: {reason}" for way, reason in self.model.refusals.items())
            raise ExportError(
                f"{type(network).__name__} can be run up to a stage, but not written: no way to cut it gave a graph "
                f"({reasons}); choose other stages, or a forward without branches that depend on values"
            )
        channels = self.shape[0]
        mean, std = (values * channels if len(values) == 1 else values for values in (form.mean, form.std))
        self.normalisation: nn.Module = nn.Identity()
        self.value_range = None
        if mean:
            self.normalisation, self.value_range = Normalisation(mean, std).to(self.device), (0, 1)

    def size(self, split: str) -> int:
        return self._sizes[split]

    def pixels(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        given = self._live.loaders()
        if split not in given:
            raise RunError(f"the loaders give no {split}, with which {self._run.path} was adopted; pass all of them")
        seen = 0
        for batch in checked_batches(given[split], split, self._live.network, self._live.form):
            images = batch[0].float()
            seen += len(images)
            yield self._as_pixels(images), torch.as_tensor(batch[1])
        if split == "test" and seen != self._sizes[split]:
            raise RunError(
                f"the loader of {split} gives {seen} images, {self._run.path} was adopted with {self._sizes[split]}; "
                "pass the same"
            )

    def _as_pixels(self, images: Tensor) -> Tensor:
        """Images of the loaders as a file takes them: in [0, 1] where it normalises them itself."""
        if not isinstance(self.normalisation, Normalisation):
            return images
        cpu = self.normalisation.std.cpu(), self.normalisation.mean.cpu()
        return images * cpu[0] + cpu[1]

    def features(self, stages: Sequence[str], folder: Path) -> Mapping[str, Captured]:
        key = AnalysisKey.of(self._run, max_samples=None, pooling=POOLING, precision="auto")
        captured = None if has_final_norm(self._run) else read_features(self._run, key)
        if captured is None:  # kept are others: pooled in another way, or after the final normalisation
            live = self._live
            captured = look(
                live.network,
                live.loaders(),
                list(self._run.manifest["stages"]),
                folder=folder,
                form=live.form,
                classes=self.classes,
                pooling=POOLING,
                device=live.device,
            ).captured
        return {split: captured[split] for split in ("train", "val")}

    @property
    def full(self) -> nn.Module:
        assert not isinstance(self.model, nn.Module)
        return nn.Sequential(self.normalisation, self.model.whole).eval()
