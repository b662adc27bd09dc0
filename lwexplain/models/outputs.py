"""The logits in whatever form a classifier returns them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lwexplain.errors import ModelError

NAMES = ("logits", "out", "output", "pred", "predictions")
"""Under which classifiers file their logits in a dictionary or as attributes of an object."""


def logits_in(output: Any, n: int) -> Tensor:
    """The logits (N, K) for ``n`` images in what a model returned.

    That is a tensor; the value named logits (or out, output, pred, predictions) of a mapping or an object, else the
    only one of shape (N, K); the first one of shape (N, K) in a tuple or list, where the logits come first by custom.
    Raises ModelError where there is none, or several in a mapping without such a name.
    """
    found = _candidates(output, n)
    if len(found) == 1 or (found and not isinstance(output, Mapping)):
        return found[0]
    if found:
        raise ModelError(
            f"the model returns a {type(output).__name__} with {len(found)} tensors that may be logits (keys "
            f"{', '.join(map(str, output))}); wrap it in a module that returns the logits (N, K) alone"
        )
    raise ModelError(
        f"the model returns {_described(output)} for {n} images; expected logits (N, K), or a tuple, dict or object "
        "that holds them under the name logits; wrap it in a module that returns the logits alone"
    )


def _candidates(output: Any, n: int) -> list[Tensor]:
    """Tensors that may be the logits, only the named one where a name says it."""
    if isinstance(output, Tensor):
        fits = output.layout == torch.strided and output.ndim == 2 and output.shape[0] == n and output.shape[1] > 0
        return [output] if fits else []
    for name in NAMES:
        named = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(named, Tensor):
            return _candidates(named, n)
    if isinstance(output, Mapping):
        return [tensor for value in output.values() if isinstance(value, Tensor) for tensor in _candidates(value, n)]
    if isinstance(output, Sequence) and not isinstance(output, (str, bytes)):
        return [tensor for value in output for tensor in _candidates(value, n)]
    return []


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with {', '.join(f'{key} {_brief(value)}' for key, value in output.items())}"
    if isinstance(output, Sequence) and not isinstance(output, (str, bytes)):
        return f"a {type(output).__name__} of {', '.join(map(_brief, output)) or 'nothing'}"
    return _brief(output)


def _brief(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
