"""Batches that shrink by themselves where memory is short."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from lwexplain.errors import ProbeError, UserCodeError
from lwexplain.models.activations import ActivationMeter

T = TypeVar("T")

CHUNK = 64
"""Rows of one forward pass; more gain nothing on two cores."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class Chunker:
    """Runs a function over parts of tensors; ``size`` is the number of rows that has proved to fit.

    Where a part does not fit into memory the size is halved, for good, and the part is tried again.
    ``memory_bytes`` is what one may take for working arrays.
    """

    def __init__(self, size: int = CHUNK, memory_bytes: int = 512 * 2**20) -> None:
        self.size, self.memory_bytes = size, memory_bytes

    def run(self, compute: Callable[..., T], *tensors: Tensor, rows: Callable[[], int] | None = None) -> list[T]:
        """``compute`` of each part of the tensors (equally long), in order.

        ``rows()`` gives the rows of a part where they are not ``size``. Raises ProbeError where a single row does not
        fit.
        """
        results: list[T] = []
        start, total = 0, len(tensors[0])
        while start < total:
            count = max(1, rows() if rows else self.size)
            failure = ""
            try:
                results.append(compute(*(tensor[start : start + count] for tensor in tensors)))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                failure = " ".join(str(error).split()) or type(error).__name__
            if not failure:
                start += count
                continue
            if self.size == 1:
                raise ProbeError(
                    f"one image alone does not fit into memory ({failure}); use smaller images or another device"
                )
            self.size //= 2
            if torch.cuda.is_available():  # outside the except block, where the traceback still holds tensors
                torch.cuda.empty_cache()
        return results


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory is short, on any device."""
    if isinstance(error, UserCodeError) and error.__cause__ is not None:
        return is_out_of_memory(error.__cause__)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = " ".join(str(error).lower().split())
    return isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)


def chunker_for(
    network: Callable[[Tensor], Tensor], image: Tensor, memory_bytes: int, size: int | None = None
) -> Chunker:
    """A chunker whose batches take about half of ``memory_bytes``, by what ``image`` (1, C, H, W) takes.

    The bytes are those of the activations of a forward and backward pass, counted by ActivationMeter; on a GPU, which
    says when it is full, the size is ``size`` or 64 rows to begin with.
    """
    size = CHUNK if size is None else size
    if image.device.type == "cpu":
        try:
            size = min(size, max(1, memory_bytes // 2 // bytes_of(network, image)))
        except Exception as error:  # a network without gradients: the methods say so, each for itself
            size = 1 if is_out_of_memory(error) else size
    return Chunker(size, memory_bytes)


def bytes_of(network: Callable[[Tensor], Tensor], image: Tensor) -> int:
    """Bytes of the activations of one image in a forward pass and the backward pass to the image."""
    with torch.inference_mode(False), torch.enable_grad():
        x: Any = image.detach().clone().requires_grad_()
        with ActivationMeter() as meter:
            logits = network(x)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), x, allow_unused=True)
    return max(1, meter.peak_bytes)
