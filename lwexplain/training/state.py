"""What training changes and an exact resume restores, in parts; each gives its tensors by name and takes them back.

Tensors are named ``model.*``, ``loss.DEPTH.*``, ``meter.*``, ``val_correct.DEPTH``, ``optimizer.*``, ``rng.cpu.RANK``
and ``rng.cuda.RANK``. A ``load_state_dict`` checks before it changes anything, and raises ValueError.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from lwexplain.models.staged import StagedModel
from lwexplain.processes import World
from lwexplain.training.checkpoint import optimizer_tensors, with_prefix
from lwexplain.training.losses.base import LocalLoss
from lwexplain.training.meter import Meter
from lwexplain.training.state_checks import check_hits, check_position, check_random_state


@dataclass
class Position:
    """How far training has come: the next step to do.

    ``seconds`` of training so far, ``epoch_seconds`` of them in the present epoch, ``events_bytes`` of the log,
    ``stopped`` the reason for an early end, ``live_prefix`` whether the outputs of frozen stages found no place to be
    kept in, ``best_accuracy`` the best on val of the present phase.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    events_bytes: int = 0
    stopped: str | None = None
    live_prefix: bool = False
    best_accuracy: float | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a step of the present phase has been made."""
        return self.epoch > 0 or self.step > 0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, values: Any) -> None:
        """Take over ``values``, exactly the fields of a position, each of its type."""
        check_position(values, [field.name for field in fields(self)])
        for name, value in values.items():
            setattr(self, name, value)


@dataclass
class BestWeights:
    """The model's ``weights`` in the best epoch of the present phase, on the CPU, and the ``epoch`` they are of.
    ``saved`` once they lie in the run directory."""

    weights: dict[str, Tensor]
    epoch: dict[str, Any]
    saved: bool = False

    def state_dict(self) -> dict[str, Tensor]:
        return with_prefix("model", self.weights)


class ValHits(dict[int, Tensor]):
    """Which of the n val samples each trained depth got right: bool (n,) by depth."""

    def state_dict(self) -> dict[str, Tensor]:
        return {str(depth): right for depth, right in self.items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor], depths: Mapping[int, Any], n: int) -> None:
        """Take over the hits of some of ``depths`` on ``n`` samples."""
        found = check_hits(tensors, {str(depth): depth for depth in depths}, n)
        self.clear()
        self.update(found)


@dataclass(frozen=True)
class RandomStates:
    """The random states of all processes, of the CPU and of the CUDA device."""

    world: World
    device: torch.device

    def state_dict(self) -> dict[str, Tensor]:
        """Every process must call it."""
        found = {f"cpu.{rank}": state for rank, state in enumerate(self.world.gather(torch.get_rng_state()))}
        if self.device.type == "cuda":
            on_device = self.world.gather(torch.cuda.get_rng_state(self.device))
            found |= {f"cuda.{rank}": state for rank, state in enumerate(on_device)}
        return found

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Set those of this process."""
        name = f"cpu.{self.world.rank}"
        torch.set_rng_state(check_random_state(tensors.get(name), torch.get_rng_state(), f"rng.{name}"))
        name = f"cuda.{self.world.rank}"
        if self.device.type == "cuda" and name in tensors:
            present = torch.cuda.get_rng_state(self.device)
            torch.cuda.set_rng_state(check_random_state(tensors[name], present, f"rng.{name}"), self.device)


@dataclass
class TrainingState:
    """All parts. ``optimizer`` is there while a phase is trained, ``best`` once an epoch of the phase has ended."""

    model: StagedModel
    losses: dict[int, LocalLoss]
    meter: Meter
    random: RandomStates
    position: Position = field(default_factory=Position)
    val_correct: ValHits = field(default_factory=ValHits)
    optimizer: torch.optim.Optimizer | None = None
    best: BestWeights | None = None

    def weight_that_is_not_finite(self) -> str | None:
        """The name of a weight of the model with a NaN or an infinite value; None where there is none."""
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                return name
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors of all parts but the best weights; every process must call it."""
        tensors = with_prefix("model", self.model.state_dict())
        tensors |= with_prefix("meter", self.meter.state_dict())
        tensors |= with_prefix("rng", self.random.state_dict())
        for depth, loss in self.losses.items():
            tensors |= with_prefix(f"loss.{depth}", loss.state_dict())
        tensors |= with_prefix("val_correct", self.val_correct.state_dict())
        if self.optimizer is not None:
            tensors |= with_prefix("optimizer", optimizer_tensors(self.optimizer))
        return tensors
