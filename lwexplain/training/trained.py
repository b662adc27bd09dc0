"""A trained run, opened: its configuration, the images it was trained on, and its network with the weights."""

from dataclasses import dataclass

import torch

from lwexplain.config import Config
from lwexplain.data.dataset import DataSplits
from lwexplain.data.load import load_data
from lwexplain.data.same_data import require_same_data
from lwexplain.devices import pick_device
from lwexplain.errors import RunError
from lwexplain.models.size_limit import SizeLimit
from lwexplain.models.staged import StagedModel
from lwexplain.run import Run
from lwexplain.stored_config import config_of_run, most_bytes
from lwexplain.training.build import build_trainable
from lwexplain.training.checkpoint import load_final_weights


@dataclass(frozen=True)
class Trained:
    """``model`` is the whole network on ``device`` in evaluation mode, channels last; ``stages`` names those of its
    stages that training got to."""

    config: Config
    data: DataSplits
    model: StagedModel
    stages: list[str]
    device: torch.device


def open_trained(run: Run, device: str | None = None) -> Trained:
    """Open a trained run on ``device`` (None: that of its configuration).

    Raises RunError where it is not trained, where its images are not those it was trained on, and where its files
    contradict each other; DataError where the images are not there; CheckpointError for damaged weights.
    """
    run.require_trained()
    if run.is_adopted:
        raise RunError(f"{run.path} was adopted: lwexplain does not know the code of its network; pass the network")
    config = config_of_run(run)
    data = load_data(config.data, config.seed)
    require_same_data(data, run)
    place = pick_device(device or config.device)
    with SizeLimit(most_bytes(run)):
        model = build_trainable(config, data.shape, data.num_classes)
    load_final_weights(run, model)
    if run.trained_depth > model.depth:
        raise RunError(
            f"{run.path}/run.json says that {run.trained_depth} stages were trained, the network has {model.depth}; "
            "restore it from a copy of the run"
        )
    model = model.to(place).to(memory_format=torch.channels_last).eval()
    return Trained(config, data, model, model.names[: run.trained_depth], place)


def trained_part(trained: Trained) -> StagedModel:
    """The stages that training got to with the heads they have, in evaluation mode, sharing the modules."""
    model, depth = trained.model, len(trained.stages)
    part = StagedModel(dict(list(model.stages.items())[:depth]), model.input_shape, model.num_classes)
    part.read_tokens_as(model)
    for head_depth in model.head_depths:
        if head_depth <= depth:
            part.set_head(head_depth, model.head(head_depth))
    return part.eval()
