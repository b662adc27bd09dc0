"""The weights of an adopted network in its run, and whether another one has the same."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lwexplain.arguments import shown
from lwexplain.errors import RunError
from lwexplain.run import Run
from lwexplain.training.checkpoint import LAST, load_checkpoint, save_checkpoint, under_prefix, with_prefix


@dataclass(frozen=True)
class Weights:
    """Parameters and buffers by name, on the CPU; ``digest`` identifies names, kinds and values."""

    tensors: dict[str, Tensor]

    @property
    def digest(self) -> str:
        """SHA-256 over names, kinds, shapes and bytes."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def weights_of(model: nn.Module) -> Weights:
    """What ``model.state_dict()`` holds of tensors, moved to the CPU."""
    state = model.state_dict()
    return Weights({name: value.detach().cpu() for name, value in state.items() if isinstance(value, Tensor)})


def store_weights(run: Run, model: nn.Module) -> None:
    """Write the weights of ``model`` into the run."""
    state = {name: value.detach() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    save_checkpoint(run.checkpoints / LAST, with_prefix("model", state), {"adopted": True})
    run.record_files(run.checkpoints / LAST)


def load_stored_weights(run: Run, model: nn.Module) -> None:
    """Put the weights of the run into ``model``; raises RunError where it is built otherwise than the adopted one."""
    stored = under_prefix("model", load_checkpoint(run.checkpoints / LAST)[0])
    require_fitting(run, model, stored)
    model.load_state_dict(stored, strict=False)


def require_fitting(run: Run, model: nn.Module, stored: dict[str, Tensor]) -> None:
    """Raise RunError unless ``model`` has the names and shapes of the ``stored`` weights."""
    own = weights_of(model).tensors
    missing, left = sorted(own.keys() - stored.keys()), sorted(stored.keys() - own.keys())
    reason = ""
    if missing:
        reason = f"it has {len(missing)} weights that the run has not, such as {shown(missing[0])}"
    elif left:
        reason = f"it lacks {len(left)} weights of the run, such as {shown(left[0])}"
    else:
        for name, tensor in stored.items():
            if tensor.shape != own[name].shape:
                reason = f"{name} is {tuple(own[name].shape)}, in the run {tuple(tensor.shape)}"
                break
    if reason:
        raise RunError(
            f"the network ({type(model).__name__}) is not the one that {run.path} was adopted from: {reason}; pass the "
            "factory and arguments it was adopted with"
        )
