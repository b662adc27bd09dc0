"""Where the patches of an image lie among the tokens of a transformer, found by watching a forward pass."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lwexplain.models.layout import Layout
from lwexplain.models.modules import first_tensor

MOST_OTHERS = 16
"""Most class, register and distillation tokens that a network may have beside those of the patches."""


Call = tuple[int, int]
"""A module's id, and which of its calls in a forward pass, from 1."""


class UnknownGrid(Exception):
    """Nothing says for certain how tokens lie over the image; the text says why."""


@dataclass(frozen=True)
class TokenGrid:
    """Of ``count`` tokens (N, T, D), those from ``start`` on are the patches, ``height`` rows of ``width``."""

    count: int
    start: int
    height: int
    width: int

    @property
    def patches(self) -> int:
        return self.height * self.width

    @property
    def others(self) -> int:
        """Class, register and other tokens that belong to no place in the image."""
        return self.count - self.patches

    def patch_tokens(self, tokens: Tensor) -> Tensor:
        """(N, T, D) -> (N, height * width, D)."""
        return tokens[:, self.start : self.start + self.patches]

    def to_grid(self, tokens: Tensor) -> Tensor:
        """(N, T, D) -> (N, D, height, width)."""
        return self.patch_tokens(tokens).transpose(1, 2).unflatten(2, (self.height, self.width))

    def from_grid(self, grid: Tensor, tokens: Tensor) -> Tensor:
        """The ``tokens`` (N, T, D) with those of the patches replaced by ``grid`` (N, D, height, width)."""
        end = self.start + self.patches
        return torch.cat([tokens[:, : self.start], grid.flatten(2).transpose(1, 2), tokens[:, end:]], dim=1)


class TokenWatch(TorchFunctionMode):
    """While open, notes what tells where patches lie: grids that convolutions make of the image, and tokens that are
    put before or behind those of a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.grids: list[tuple[int, int]] = []
        self.joins: dict[tuple[int, int], int] = {}  # (length of a part, length of the whole) -> where the part starts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _CONVOLUTIONS and isinstance(result, Tensor) and result.ndim == 4:
            self._note_grid(result.shape[-2], result.shape[-1])
        elif func in _JOINS and isinstance(result, Tensor) and result.ndim == 3:
            parts = args[0] if args else (kwargs or {}).get("tensors", ())
            start = 0
            for part in parts:
                length = part.shape[1] if part.ndim == 3 else 0
                if length < result.shape[1] and part.shape[-1] == result.shape[-1]:
                    self.joins[length, result.shape[1]] = start
                start += length
        return result

    def _note_grid(self, height: int, width: int) -> None:
        if (height, width) in self.grids:
            self.grids.remove((height, width))
        self.grids.append((height, width))

    def so_far(self) -> "TokenWatch":
        """What was noted until now, in a watch of its own."""
        other = TokenWatch()
        other.grids, other.joins = list(self.grids), dict(self.joins)
        return other

    def grid_of(self, count: int, image: tuple[int, int]) -> TokenGrid:
        """How ``count`` tokens lie over an image of ``image`` (height, width) pixels; raises UnknownGrid.

        The latest grid of a convolution whose places are among the tokens, or that grid halved in both directions as
        often as tokens were merged. Where no convolution made the patches: the only grid of square patches that tile
        the image and leave as few tokens over as networks have. What does not say it for certain is refused.
        """
        for height, width in reversed(self.grids):
            if height * width > 1 and (start := self._start(height * width, count)) is not None:
                return TokenGrid(count, start, height, width)
        merged = {
            (start, height, width)
            for grid in self.grids
            for height, width in _merged(*grid)
            if (start := self._start_of_merged(grid, height * width, count)) is not None
        }
        if not merged and not any(height * width > 1 for height, width in self.grids):
            merged = {(count - h * w, h, w) for h, w in _tilings(*image) if 0 <= count - h * w <= MOST_OTHERS}
            placed = {(start, h, w) for rest, h, w in merged if (start := self._start(h * w, count)) is not None}
            merged = placed or merged
        if len(merged) == 1:
            return TokenGrid(count, *merged.pop())
        size = f"{image[0]} x {image[1]} pixels"
        if not merged:
            raise UnknownGrid(f"{count} tokens do not lie on a grid over an image of {size}")
        grids = ", ".join(f"{height} x {width} and {start} others" for start, height, width in sorted(merged))
        raise UnknownGrid(f"{count} tokens over an image of {size} may be {grids}")

    def _start(self, places: int, count: int) -> int | None:
        """Where ``places`` tokens of a grid stand among ``count``; None where they do not."""
        if places == count:
            return 0
        if not 0 < count - places <= MOST_OTHERS:
            return None
        if (places, count) in self.joins:
            return self.joins[places, count]
        for (length, whole), start in self.joins.items():  # put together in two steps: class token, then registers
            if whole == count and (places, length) in self.joins:
                return start + self.joins[places, length]
        return None

    def _start_of_merged(self, grid: tuple[int, int], places: int, count: int) -> int | None:
        """As ``_start``, for a grid of merged tokens beside as many others as stood beside the grid it came from."""
        if places == count:
            return 0
        for (length, whole), start in self.joins.items():
            if length == grid[0] * grid[1] and whole - length == count - places:
                return start
        return self._start(places, count)


def token_grid(run: Callable[[Callable[[Tensor], Tensor]], Any], image: tuple[int, int]) -> TokenGrid | None:
    """The grid of a layer that gives tokens (N, T, D); None for one that gives anything else.

    ``run`` makes a forward pass that hands the layer's output to the given function, once or more often, the same grid
    holding for all. Raises UnknownGrid.
    """
    watch = TokenWatch()
    found: list[TokenGrid] = []

    def look(raw: Tensor) -> Tensor:
        if isinstance(raw, Tensor) and raw.ndim == 3 and not found:
            found.append(watch.grid_of(raw.shape[1], image))
        return raw

    with torch.no_grad(), watch:
        run(look)
    return found[0] if found else None


@contextlib.contextmanager
def watching_tokens(
    modules: Mapping[str, nn.Module], image: tuple[int, int]
) -> Iterator[Callable[[Mapping[Call, Layout]], dict[Call, TokenGrid]]]:
    """Watch one forward pass of an image of ``image`` (height, width) pixels that is made inside.

    Gives a function, to be called afterwards with the layouts of the outputs, that returns the grid of every call of
    the given ``modules`` that gave tokens; calls with tokens whose grid is not certain are left out.
    """
    watch = TokenWatch()
    calls: Counter[int] = Counter()
    seen: dict[Call, tuple[torch.Size, TokenWatch]] = {}

    def look(module: nn.Module, _: Any, output: Any) -> None:
        calls[id(module)] += 1
        tensor = first_tensor(output)
        if tensor is not None and tensor.ndim == 3:
            seen[id(module), calls[id(module)]] = tensor.shape, watch.so_far()

    def grids(layouts: Mapping[Call, Layout]) -> dict[Call, TokenGrid]:
        found = {}
        for call, (shape, known) in seen.items():
            order = layouts.get(call, Layout()).order or (0, 1, 2)
            with contextlib.suppress(UnknownGrid):
                found[call] = known.grid_of(shape[order[1]], image)
        return found

    handles = [module.register_forward_hook(look) for module in {id(m): m for m in modules.values()}.values()]
    try:
        with watch:
            yield grids
    finally:
        for handle in handles:
            handle.remove()


def _merged(height: int, width: int) -> list[tuple[int, int]]:
    """A grid halved in both directions once, twice, ... as long as more than one place is left."""
    grids = []
    while height * width > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
        if height * width > 1:
            grids.append((height, width))
    return grids


def _tilings(height: int, width: int) -> list[tuple[int, int]]:
    """Grids of square patches that tile an image, more than one patch."""
    sides = [side for side in range(1, min(height, width) + 1) if height % side == 0 == width % side]
    return [(height // side, width // side) for side in sides if height * width > side * side]


_CONVOLUTIONS = (F.conv2d, torch.conv2d, F.avg_pool2d, F.max_pool2d, torch.max_pool2d, F.adaptive_avg_pool2d)
_JOINS = (torch.cat, torch.concat, torch.concatenate, torch.hstack)
