"""What a network's own head reads of its tokens: the class token, the mean of the patches, or both.

Nothing in a module says it, so it is found by what depends on what: the last tokens (N, T, D) of a forward pass are
changed, a part of them at a time, and where the logits change, that part is read.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lwexplain.errors import LwexplainError
from lwexplain.models.calling import call_with_images
from lwexplain.models.layout import Layout
from lwexplain.models.modules import first_tensor, in_evaluation
from lwexplain.models.outputs import logits_in
from lwexplain.models.tokens import TokenGrid, TokenWatch, UnknownGrid

CHANGE = 3.0
"""How far tokens are moved, in standard deviations of all of them."""

UNREAD = 1e-4
"""Share of the largest change of the logits below which a part counts as unread; rounding of float32 is far less."""

UNREAD_IN_HALF_PRECISION = 2e-2


@dataclass(frozen=True)
class TokenPooling:
    """Tokens (N, T, D) to rows: those at ``alone`` side by side, then the mean of ``patches`` tokens from ``start`` on
    (0: no mean)."""

    alone: tuple[int, ...]
    start: int
    patches: int

    def __call__(self, tokens: Tensor) -> Tensor:
        """(N, T, D) -> (N, ``parts`` * D)."""
        rows = [tokens[:, place] for place in self.alone]
        if self.patches:
            rows.append(tokens[:, self.start : self.start + self.patches].mean(1))
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)

    @property
    def parts(self) -> int:
        """How many times D a row is wide."""
        return len(self.alone) + bool(self.patches)


@dataclass(frozen=True)
class TokenReading:
    """What a head reads: the patches or not, and which of the ``count`` tokens that are no patches (in their order,
    from 0). ``known`` is False where nothing tells it; then the mean of the patches is what stands for the tokens."""

    others: tuple[int, ...] = ()
    patches: bool = True
    count: int = 0
    known: bool = True

    @property
    def kind(self) -> str:
        """``cls``, ``mean`` or ``cls+mean``."""
        return "+".join(["cls"] * bool(self.others) + ["mean"] * self.patches)

    def fits(self, grid: TokenGrid) -> bool:
        """Whether a stage has the same class and register tokens as those that the head reads from."""
        return self.known and grid.others == self.count

    def pooling(self, grid: TokenGrid) -> TokenPooling:
        """What the head would read of tokens on ``grid``: the mean of the patches where they have not the same class
        and register tokens."""
        if not self.fits(grid) or not self.others:
            return TokenPooling((), grid.start, grid.patches)
        return TokenPooling(self.class_tokens(grid), grid.start, grid.patches if self.patches else 0)

    def class_tokens(self, grid: TokenGrid) -> tuple[int, ...]:
        """Places of the tokens beside the patches that the head reads; of the first one where it reads none."""
        places = places_of_others(grid)
        return tuple(places[other] for other in self.others) if self.fits(grid) and self.others else places[:1]


UNKNOWN = TokenReading(known=False)


def places_of_others(grid: TokenGrid) -> tuple[int, ...]:
    """Places of the tokens that are no patches."""
    return (*range(grid.start), *range(grid.start + grid.patches, grid.count))


def read_by_head(
    model: nn.Module,
    image_shape: tuple[int, ...],
    *,
    call: Callable[[nn.Module, Tensor], Any] = call_with_images,
    seed: int = 0,
) -> TokenReading:
    """What the head of ``model`` reads of its tokens, for images (C, H, W); ``UNKNOWN`` where nothing tells it.

    One forward pass of one image finds the last tokens that hold others beside those of the patches, a second one
    changes them: of one copy of the image each class or register token, of another all patches. ``call`` gives images
    to the model. It runs in evaluation mode and is left as it was.
    """
    if len(image_shape) != 3:
        return UNKNOWN
    generator = torch.Generator().manual_seed(seed)
    parameter = next(model.parameters(), torch.empty(0))
    image = torch.randn(1, *image_shape, generator=generator).to(parameter.device)
    with in_evaluation(model), torch.no_grad():
        try:
            last = _last_tokens(model, image, call)
            effects = None if last is None else _effects(model, image, call, last, generator)
            if last is not None and effects is None:  # a head that starts from zeros makes the same of everything
                for weight in model.parameters():
                    if weight.ndim > 1 and weight.is_floating_point() and not weight.any():
                        weight.data = torch.randn(weight.shape, generator=generator).to(weight)  # put back at the end
                effects = _effects(model, image, call, last, generator)
        except Exception:  # whoever runs the model next is told what is wrong with it
            return UNKNOWN
    if effects is None:
        return UNKNOWN
    *others, patches = effects
    return TokenReading(tuple(place for place, read in enumerate(others) if read), patches, len(others))


@dataclass(frozen=True)
class _LastTokens:
    """The module and the number of its call that gave the last tokens, how they lie, and the patches among them."""

    module: nn.Module
    number: int
    layout: Layout
    grid: TokenGrid


def _last_tokens(model: nn.Module, image: Tensor, call: Callable[[nn.Module, Tensor], Any]) -> _LastTokens | None:
    """The module that made them, not those around it that hand them on: what reads them may lie in between."""
    watch, calls = TokenWatch(), Counter[int]()
    found: list[tuple[Tensor, _LastTokens]] = []

    def look(module: nn.Module, _: Any, output: Any) -> None:
        calls[id(module)] += 1
        tensor = first_tensor(output)
        if tensor is None or tensor.ndim != 3 or 1 not in tensor.shape[:2]:
            return
        layout = Layout() if tensor.shape[0] == 1 else Layout((1, 0, 2))  # tokens (T, N, D)
        try:
            grid = watch.grid_of(layout.in_order(tensor).shape[1], (image.shape[2], image.shape[3]))
        except UnknownGrid:
            return
        if grid.others:
            found.append((tensor, _LastTokens(module, calls[id(module)], layout, grid)))

    with watch, _Hooks(model.modules(), look):
        call(model, image)
    made = (last for tensor, last in found if tensor.data_ptr() == found[-1][0].data_ptr())
    return next(made, None)


def _effects(
    model: nn.Module,
    image: Tensor,
    call: Callable[[nn.Module, Tensor], Any],
    last: _LastTokens,
    generator: torch.Generator,
) -> list[bool] | None:
    """Whether the logits change with each token beside the patches, and, last, with the patches; None where they
    change with nothing."""
    places = places_of_others(last.grid)
    copies = len(places) + 2  # of the image: as it is, one with each token changed, one with all patches changed
    calls = Counter[int]()
    changed: list[Tensor] = []

    def change(module: nn.Module, _: Any, output: Any) -> Any:
        calls[id(module)] += 1
        if calls[id(module)] != last.number:
            return None
        given = first_tensor(output)
        if given is None:
            return None
        new = given.clone()
        tokens = last.layout.in_order(new)
        noise = torch.randn(tokens.shape[-1], generator=generator).to(tokens)
        noise = noise * CHANGE * tokens.float().std().clamp_min(1e-3).to(tokens)
        for row, place in enumerate(places, start=1):
            tokens[row, place] += noise
        last.grid.patch_tokens(tokens)[copies - 1] += noise
        changed.append(new)
        if isinstance(output, Tensor):
            return new
        given.copy_(new)
        return None

    with _Hooks([last.module], change):
        returned = call(model, image.repeat(copies, 1, 1, 1))
    try:
        logits = logits_in(returned, copies)
    except LwexplainError:
        return None
    if not changed:
        return None
    half = logits.dtype in (torch.float16, torch.bfloat16) or changed[0].dtype in (torch.float16, torch.bfloat16)
    least = UNREAD_IN_HALF_PRECISION if half else UNREAD
    logits = logits.double()
    effects = (logits[1:] - logits[0]).abs().amax(1)
    largest = effects.max()
    if not torch.isfinite(largest) or largest <= least / 10 * logits[0].abs().max():
        return None
    return (effects > least * largest).tolist()


class _Hooks:
    """The same forward hook on some modules while open."""

    def __init__(self, modules: Iterable[nn.Module], hook: Callable[..., Any]) -> None:
        self._handles = [module.register_forward_hook(hook) for module in modules]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
