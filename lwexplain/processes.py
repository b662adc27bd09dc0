"""Several processes that share one piece of work: what they exchange (``torchrun``, torch.distributed)."""

import atexit
import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before there is a group, which its default arguments would hold for good
from torch import Tensor

from lwexplain.errors import LwexplainError, TrainingError


@dataclass(frozen=True)
class World:
    """The processes that work together and the place of this one among them."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """True in the process that writes and prints."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, on the CPU; every process must call it."""
        if self.is_alone:
            return tensor.cpu()
        mine = tensor.to(_exchange_device(), copy=True)
        dist.all_reduce(mine)
        return mine.cpu()

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process, so that all act alike."""
        if self.is_alone:
            return list(flags)
        raised = torch.tensor([int(flag) for flag in flags])
        return [value > 0 for value in self.total(raised).tolist()]

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensor of every process (equal shapes), on the CPU, in the order of the ranks."""
        if self.is_alone:
            return [tensor]
        mine = tensor.to(_exchange_device())
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return [part.cpu() for part in parts]

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process runs the block and the others go on when it is done; an error of it is one of all."""
        with self.together(TrainingError("the first process cannot go on; it says why")):
            yield

    @contextmanager
    def together(self, otherwise: Exception) -> Iterator[None]:
        """All processes run the block; where it fails in one it fails in all, ``otherwise`` being raised elsewhere.

        In the first process, which speaks for all, ``otherwise`` has the reason with it.
        """
        error: BaseException | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        if not self.any(error is not None)[0]:
            return
        reasons = self.gather_objects(None if error is None else str(error))
        if error is not None:
            raise error
        rank = next(rank for rank, reason in enumerate(reasons) if reason is not None)
        raise type(otherwise)(f"{otherwise}: process {rank} says {reasons[rank]}") if self.is_main else otherwise

    def gather_objects(self, item: Any) -> list[Any]:
        """What every process passes, in the order of the ranks."""
        if self.is_alone:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def wait(self) -> None:
        """Return once every process has come here."""
        self.any(False)


class _Group:
    """The process group that this module has made, if any, and how many ``joined_world`` are open in it."""

    made = False
    open = 0


def current_world() -> World:
    """The world of this process: that of the open ``joined_world`` or of a process group that the script has made."""
    if dist.is_available() and dist.is_initialized() and (_Group.open or not _Group.made):
        return World(dist.get_rank(), dist.get_world_size())
    return World()


@contextmanager
def joined_world() -> Iterator[World]:
    """Join the processes that ``torchrun`` has started; alone where it has not.

    They are joined once, for as long as the script runs: a process group that is taken down while others are still in
    it, and made anew for the next call, finds its ports closed. Outside the block every process is alone all the same.

    Raises TrainingError where the others cannot be found, or where one of them has ended within the block: what ended
    it is said, where it could tell.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and not dist.is_initialized():
        _make_group()
    _Group.open += 1
    try:
        world = current_world()
        yield world
    except Exception as error:
        if world.is_alone:
            raise
        if not _is_lost_connection(error):
            _leave_word(world.rank, error)
            raise
        raise TrainingError(f"{_last_words()}; start all of them again, train with --resume") from error
    finally:
        _Group.open -= 1


def leave_world() -> None:
    """Take down the process group that ``joined_world`` has made; done at the end of the script at the latest."""
    if _Group.made and dist.is_initialized():
        dist.destroy_process_group()
    _Group.made = False


def _make_group() -> None:
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        dist.init_process_group("nccl" if cuda else "gloo")
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"the processes cannot find each other ({error}); start them with torchrun") from None
    _Group.made = True
    atexit.register(leave_world)


# ---------------------------------------------------------------------- what ended a process

LAST_WORDS = "lwexplain/last_words"
WAIT_FOR_WORDS = timedelta(seconds=3)


def _is_lost_connection(error: Exception) -> bool:
    """Whether an exchange failed because another process is not there any more."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("gloo" in text or "nccl" in text or "connection" in text)


def _leave_word(rank: int, error: Exception) -> None:
    """Say to the others what ends this process; they may be waiting for it in an exchange."""
    with contextlib.suppress(Exception):  # the store may have gone with the process that kept it
        store = dist.distributed_c10d._get_default_store()
        text = str(error) if isinstance(error, LwexplainError) else f"{type(error).__name__}: {error}"
        store.set(LAST_WORDS, f"process {rank} has ended: {text}")


def _last_words() -> str:
    """What a process that has ended left as the reason."""
    with contextlib.suppress(Exception):
        store = dist.distributed_c10d._get_default_store()
        store.wait([LAST_WORDS], WAIT_FOR_WORDS)
        return str(store.get(LAST_WORDS).decode())
    return "another process has ended without a word (killed, or out of memory)"


def _exchange_device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
