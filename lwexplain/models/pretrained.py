"""Pretrained weights from a file, also for a network of another number of classes."""

from collections.abc import Callable
from typing import Any

from torch import nn

from lwexplain.arguments import shown
from lwexplain.config import WEIGHT_FILES, is_weight_file
from lwexplain.errors import CheckpointError, ModelError
from lwexplain.models.stored_weights import read_weight_file
from lwexplain.models.weight_files import load_weights
from lwexplain.models.weight_names import best_matches


def require_weight_file(weights: Any, otherwise: str) -> None:
    """Raise ModelError where ``weights`` is no file; ``otherwise`` says how weights that a library names are had."""
    if not is_weight_file(weights):
        raise ModelError(
            f"model.options.weights is {shown(weights)}; give a file that ends in {', '.join(WEIGHT_FILES)}{otherwise}"
        )


def load_pretrained(build: Callable[[int], nn.Module], weights: str, num_classes: int) -> nn.Module:
    """``build(num_classes)`` with the weights of a file; layers whose first dimension is the number of classes keep
    their own where the file has another number of them.

    Raises ModelError where the file cannot be read or is not of this network.
    """
    model = build(num_classes)
    try:
        other = _classes_in(weights, model, num_classes)
        if other is None:
            load_weights(model, weights)
            return model
        pretrained = build(other)
        load_weights(pretrained, weights)
    except CheckpointError as error:
        raise ModelError(f"model.options.weights: {error}") from None
    own = model.state_dict()
    same = {name: value for name, value in pretrained.state_dict().items() if value.shape == own[name].shape}
    model.load_state_dict(same, strict=False)
    return model


def _classes_in(weights: str, model: nn.Module, num_classes: int) -> int | None:
    """The number of classes that the weights of a file are for; None where it is that of ``model``, and where they
    differ from it in anything else."""
    own = model.state_dict()
    matches = best_matches(read_weight_file(weights), set(own))
    stored = matches[0].tensors if len(matches) == 1 else {}
    differing = [
        (own[name].shape, tensor.shape)
        for name, tensor in stored.items()
        if name in own and own[name].shape != tensor.shape
    ]
    counts = {
        there[0] if there and here[:1] == (num_classes,) and here[1:] == there[1:] else None
        for here, there in differing
    }
    return counts.pop() if len(counts) == 1 else None
