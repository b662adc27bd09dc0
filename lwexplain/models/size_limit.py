"""A limit on what the network of a stored run may take while it is built: its weights lie in a file of known size."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from lwexplain.errors import ModelError

FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye})


class SizeLimit(TorchFunctionMode):
    """Raises ModelError where tensors made inside add up to more than ``most`` bytes, before the one too many is made.

    ::

        with SizeLimit(4 * path.stat().st_size):
            model = build()
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.bytes = most, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in FACTORIES:
            self.bytes += _bytes_of(args, kwargs)
            if self.bytes > self.most:
                raise ModelError(
                    f"the network of config.yaml takes more than {self.most:,} bytes, far more than the weights of the "
                    "run; restore config.yaml from a copy of the run"
                )
        return func(*args, **kwargs)


def _bytes_of(args: Any, kwargs: dict[str, Any]) -> int:
    size = kwargs.get("size", args)
    sides = size[0] if len(size) == 1 and isinstance(size[0], (tuple, list, torch.Size)) else size
    numbers = [side for side in sides if isinstance(side, int)]
    return math.prod(numbers) * (kwargs.get("dtype") or torch.get_default_dtype()).itemsize
