"""Which device to use, and what it can say about memory."""

import resource
import sys

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lwexplain.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """``auto`` takes an accelerator where there is one; raises ConfigError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is not a device; use auto, cpu, cuda, cuda:N or mps") from None
    missing = (
        (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count())
        or (device.type == "mps" and not torch.backends.mps.is_available())
        or device.type not in ("cpu", "cuda", "mps")
    )
    if missing:
        raise ConfigError(f"device {name!r} is not on this machine; use device=auto or device=cpu")
    return device


def place(module: nn.Module, device: torch.device) -> None:
    """Move a module to a device, and from now on whatever is passed to it."""
    module.to(device)
    module.register_forward_pre_hook(lambda _, inputs: tree_map_only(Tensor, lambda x: _moved(x, device), inputs))


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


def reset_peak_memory(device: torch.device) -> None:
    """Let ``peak_memory_bytes`` start anew on a CUDA device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak bytes allocated on a CUDA device, else the peak resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
