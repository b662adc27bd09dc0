"""Activation memory of a training step in bytes, counted on any device."""

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle


@dataclass
class _Storage:
    """A storage in the count; ``reference`` is weak and tells when it dies."""

    number: int
    bytes: int
    reference: weakref.ref[torch.UntypedStorage]


class ActivationMeter(TorchDispatchMode):
    """Counts the bytes of the tensors that a training step makes and keeps, while the context is open::

        with ActivationMeter(model.parameters()) as meter:
            loss_of(model(images)).backward()
        meter.peak_bytes, meter.flops

    Counted is the storage of every tensor that an operation makes, once however many views there are, until it is
    freed: what autograd saves for the backward pass, gradients of activations, passing results, recomputed activations
    of a checkpoint, and the low-precision copies of weights that autocast makes. Not counted: what existed before (the
    weights, the batch), gradients of the given ``parameters`` that require one, wrappers of existing memory
    (``torch.from_numpy``), and what an operation uses inside itself (the workspace of a convolution). Sizes are those
    asked for, before an allocator rounds them up, and bytes on several devices add up; so the number depends on the
    device only through the operations that PyTorch chooses there. Keep ``optimizer.step()`` outside: its state counts.

    ``flops`` are those of matrix products and convolutions, a multiplication and an addition counted as two, by torch's
    own table of formulas; what a checkpoint computes twice counts twice. (``FlopCounterMode`` around the step would
    say the same, but keeps checkpoints from freeing what they recompute.)

    A gradient is known as one only when autograd brings it to its parameter, some time after it was made; therefore
    sizes are noted as a list of changes, which is summed up when somebody asks.

    The operations of a backward pass are seen on every device. On the CPU it runs in the calling thread; on CUDA it
    runs in a thread of autograd's, which takes on the caller's ``at::ThreadLocalState`` and with it the stack of
    dispatch modes (``torch_dispatch_mode_state_`` in ATen/ThreadLocalState.h). Results are not changed, but every
    operation passes through Python, and what ``torch.compile`` made runs as it was before: do not time a step inside.
    Entering again starts a new count.
    """

    def __init__(self, parameters: Iterable[nn.Parameter] = ()) -> None:
        super().__init__()
        self._parameters = list(parameters)
        self._start()

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive at once so far."""
        return max(accumulate(self._changes_without_gradients()), default=0)

    @property
    def live_bytes(self) -> int:
        """Bytes alive now; after the context, those alive at its end. After a forward pass: what backward needs."""
        return sum(self._changes_without_gradients())

    def __enter__(self) -> "ActivationMeter":
        self._start()
        for parameter in self._parameters:
            if parameter.requires_grad:
                self._hooks.append(parameter.register_hook(self._exclude))
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._exclude_own_gradient))
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._storages.clear()  # and with it the weak references, so that nobody is told of later deaths
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += int(count(*args, **kwargs, out_val=result))
        given = {storage._cdata for storage in _storages_in((args, kwargs))}
        for storage in _storages_in(result):
            if storage._cdata in self._storages:
                self._resize(storage)
            elif storage._cdata not in given:
                self._add(storage)
        return result

    # ------------------------------------------------------------------ the count

    def _start(self) -> None:
        self._storages: dict[int, _Storage] = {}  # by address, which is unique among those alive
        self._changes: list[tuple[int, int]] = []  # (number of the storage, bytes more or less)
        self._gradients: set[int] = set()
        self._made = 0
        self.flops = 0
        self._hooks: list[RemovableHandle] = []

    def _changes_without_gradients(self) -> Iterator[int]:
        return (change for number, change in self._changes if number not in self._gradients)

    def _add(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        reference = weakref.ref(storage, lambda _: self._remove(address))
        self._storages[address] = _Storage(self._made, storage.nbytes(), reference)
        self._changes.append((self._made, storage.nbytes()))
        self._made += 1

    def _resize(self, storage: torch.UntypedStorage) -> None:
        known = self._storages[storage._cdata]
        if storage.nbytes() != known.bytes:
            self._changes.append((known.number, storage.nbytes() - known.bytes))
            known.bytes = storage.nbytes()

    def _remove(self, address: int) -> None:
        known = self._storages.pop(address)
        self._changes.append((known.number, -known.bytes))

    def _exclude(self, gradient: Tensor) -> None:
        for storage in _storages_in(gradient):
            if storage._cdata in self._storages:
                self._gradients.add(self._storages[storage._cdata].number)

    def _exclude_own_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._exclude(parameter.grad)


def _storages_in(tree: Any) -> list[torch.UntypedStorage]:
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return [tensor.untyped_storage() for tensor in tensors if torch._C._has_storage(tensor)]
