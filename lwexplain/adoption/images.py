"""The images of a configuration as loaders for somebody's network, normalised as that network was trained."""

from collections.abc import Sequence

from lwexplain.adoption.kept import adoption_of, form_of
from lwexplain.adoption.live import Loaders
from lwexplain.config import Config
from lwexplain.data.batches import Batches
from lwexplain.data.dataset import DataSplits, Images
from lwexplain.data.load import load_data
from lwexplain.data.same_data import require_same_data
from lwexplain.data.splits import stratified_subset
from lwexplain.errors import RunError
from lwexplain.results import SPLITS
from lwexplain.run import Run
from lwexplain.stored_config import config_of_run


def loaders_of(
    data: DataSplits, config: Config, mean: Sequence[float], std: Sequence[float], max_samples: int | None
) -> Loaders:
    """Batches of each split, of at most ``max_samples`` images (a stratified part where there are more)."""
    return {
        split: Batches(
            part_of(getattr(data, split), max_samples, config.seed),
            config.data.batch_size,
            mean=mean,
            std=std,
            seed=config.seed,
            workers=config.data.workers,
        )
        for split in SPLITS
        if getattr(data, split) is not None
    }


def part_of(images: Images, most: int | None, seed: int) -> Images:
    """All of the images, or a stratified part of ``most``."""
    if most is None or len(images) <= most:
        return images
    return images.subset(stratified_subset(images.labels, most, seed))


def images_of_config(run: Run) -> Loaders:
    """The images of an adopted run, read again; raises RunError where they are others than at its adoption."""
    config = config_of_run(run)
    data = load_data(config.data, config.seed)
    require_same_data(data, run, what="adopted with")
    form = form_of(run)
    if len(form.mean) != data.shape[0] or len(form.std) != data.shape[0]:
        raise RunError(f"{run.path}/run.json does not say data.mean and data.std; restore it from a copy of the run")
    return loaders_of(data, config, form.mean, form.std, adoption_of(run).get("max_samples"))
