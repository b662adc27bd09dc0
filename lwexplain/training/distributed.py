"""Rows and batch statistics of all processes that train one network.

Every process draws the same global batch and works on its own rows of it; gradients are averaged (DDP), batch
statistics and the rows that a loss compares are those of all. Scripts that train find ``World``, ``current_world`` and
``joined_world`` here as well; they live in ``lwexplain.processes``.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before there is a group, which its default arguments would hold for good
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lwexplain.errors import TrainingError
from lwexplain.processes import World as World
from lwexplain.processes import current_world as current_world
from lwexplain.processes import joined_world as joined_world


def all_rows(tensor: Tensor) -> Tensor:
    """The rows (first dimension, as many in each) of all processes, one process after the other, with gradients to
    each.

    Without gradients, as in an evaluation, each process keeps to its own rows.
    """
    if not torch.is_grad_enabled() or current_world().is_alone:
        return tensor
    return cast(Tensor, _AllRows.apply(tensor))


class _AllRows(torch.autograd.Function):
    """The rows of all processes; backward, the gradients that all processes have for the own ones."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0]).split(ctx.rows)[dist.get_rank()]


class _Sum(torch.autograd.Function):
    """The sum over all processes, forward and backward."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _summed(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(tensor: Tensor) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class SynchronisedBatchNorm(_BatchNorm):
    """Batch normalisation over the rows of all processes, on any device that can sum among them.

    Equal to ``nn.BatchNorm1d``, ``2d`` or ``3d`` on the whole batch (Ioffe and Szegedy 2015). On CUDA the trainer takes
    torch's own ``nn.SyncBatchNorm``, which does not work on the CPU.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        """Any input (N, C) or (N, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or current_world().is_alone:
            return super().forward(x)
        others = (0, *range(2, x.ndim))
        along_channels = (1, -1, *[1] * (x.ndim - 2))
        sums = x.float().sum(others)
        count = torch.full_like(sums[:1], x.numel() // x.shape[1])
        total = cast(Tensor, _Sum.apply(torch.cat([sums, count])))
        mean, count = total[:-1] / total[-1], total[-1]
        centred = x.float() - mean.reshape(along_channels)
        variance = cast(Tensor, _Sum.apply(centred.square().sum(others))) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked.add_(1)
                momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.detach(), momentum)
                self.running_var.lerp_((variance * count / (count - 1)).detach(), momentum)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        y = centred * scale.reshape(along_channels)
        if self.bias is not None:
            y = y + self.bias.reshape(along_channels)
        return y.to(x.dtype)


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with every batch normalisation replaced by one over all processes; weights are kept."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            cast(Any, child).__class__ = SynchronisedBatchNorm
        elif isinstance(child, _BatchNorm):
            raise TrainingError(
                f"{type(child).__name__} {name!r} cannot be synchronised among processes on the CPU; train in one"
            )
        else:
            synchronise_batch_norm(child, device)
    return module
