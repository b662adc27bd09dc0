"""DeepLift, on a network whose every non-linearity is made a module of its own."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lwexplain.probes.attribution.base import Explanation, Method, Network, NotApplicable
from lwexplain.probes.attribution.memory import Chunker

MAX_RESIDUAL = 0.1
"""Largest residual of a valid map, as a share of the logit difference f(x) - f(0)."""

PARITY = 1e-6
"""How far logits may differ from those of the model itself, as a share of the largest logit."""


class DeepLift(Method):
    """Contributions to f(x) - f(0) by the rescale rule, summed over channels (Shrikumar et al. 2017, eq. 8). Signed.

    Captum's DeepLift needs every non-linearity as a module that is used once and not in place, which residual networks
    are not: ``Separated`` gives them that. Raises NotApplicable where a network cannot be brought to this form. What
    the rule does not know (attention, GELU) shows in the completeness residual.
    """

    name = "deep_lift"
    needs_gradient = True
    max_residual = MAX_RESIDUAL
    baseline = True

    def images_at_once(self, x: Tensor, chunker: Chunker) -> int:
        return max(1, chunker.size // 2)  # the baselines go through the network beside the images

    def compute(self, network: Network, x: Tensor, target: Tensor, chunker: Chunker) -> Explanation:
        from captum.attr import DeepLift as CaptumDeepLift

        separated = Separated(network, x[:1])
        with torch.no_grad():
            plain, rewritten = network(x.clone()), separated(x.clone())
        apart = float((plain - rewritten).abs().max() / plain.abs().max().clamp(min=1e-12))
        if not apart <= PARITY:
            raise NotApplicable(
                "DeepLift needs every non-linearity as a module of its own; rewritten so, "
                f"the logits differ by {apart:.1e}"
            )
        maps = CaptumDeepLift(separated).attribute(x, target=target).detach().sum(1)
        return Explanation(maps, maps.double().sum((1, 2)))


class Separated(nn.Module):
    """The network, where each call of a non-linearity goes through a module of its own, not in place.

    The calls are counted in one forward pass of ``example``; in every later one the k-th call goes through the k-th
    module of ``units``. That holds for modules, functions and methods of tensors alike, and the network's own modules
    are neither changed nor copied, nor seen by Captum, which hangs its hooks on ``units``.
    """

    def __init__(self, network: Network, example: Tensor) -> None:
        super().__init__()
        self.source = (network,)  # in a tuple, so that it does not become a submodule
        self.units = nn.ModuleList()
        with torch.no_grad(), _Calls(self._add):
            network(example.clone())

    def forward(self, x: Tensor) -> Tensor:
        units = iter(self.units)

        def next_unit(made: nn.Module) -> nn.Module:
            unit = next(units, None)
            if type(unit) is not type(made):
                raise NotApplicable(
                    "DeepLift needs a network that takes the same way with every batch; this one does not"
                )
            assert unit is not None
            return unit

        with _Calls(next_unit):
            return self.source[0](x)

    def _add(self, made: nn.Module) -> nn.Module:
        self.units.append(made)
        return made


class _Calls(TorchFunctionMode):
    """While open, every call of a non-linearity goes through the module that ``unit`` returns for it."""

    def __init__(self, unit: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.unit = unit

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        kind = _MODULES.get(func)
        if kind is None:
            return func(*args, **kwargs)
        x: Tensor = args[0] if args else kwargs["input"]
        options = _options(kind, args, kwargs)
        if kind is nn.MaxPool2d and (windows := _side_by_side(x, func(*args, **kwargs).shape, options)) is not None:
            x, options = windows, {"kernel_size": options["kernel_size"]}
        # a copy, for Captum takes the gradient at the output of one unit for that at the input of the next; in float32,
        # for its quotients of differences divide by numbers that half precision takes for zero
        wide = x.clone() if x.dtype in (torch.float32, torch.float64) else x.float()
        return self.unit(kind(**options))(wide).to(x.dtype)


def _options(kind: type[nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options of the module that does what a call of the function would."""
    signature = _SIGNATURES.get(kind)
    if signature is None:
        return {}
    given = signature.bind(*args, **kwargs).arguments
    return {name: value for name, value in given.items() if name not in ("input", "inplace", "return_indices")}


def _side_by_side(x: Tensor, shape: torch.Size, options: dict[str, Any]) -> Tensor | None:
    """The windows of a 2-d max pooling, laid side by side: (N, C, H, W) -> (N, C, rows * height, columns * width).

    Captum's rule for max pooling puts the contribution of each window in the place of its largest value, and where
    windows overlap, one overwrites another. ``shape`` is that of the pooling's output. None where the windows do not
    overlap, and where they have holes.
    """
    height, width = _pair(options["kernel_size"])
    down, right = _pair(options.get("stride") or (height, width))
    if _pair(options.get("dilation", 1)) != (1, 1) or (down >= height and right >= width) or x.ndim != 4:
        return None
    top, left = _pair(options.get("padding", 0))
    rows, columns = shape[-2:]
    bottom = max(0, (rows - 1) * down + height - top - x.shape[2])
    beyond = max(0, (columns - 1) * right + width - left - x.shape[3])
    padded = F.pad(x, (left, beyond, top, bottom), value=torch.finfo(x.dtype).min)
    windows = padded.unfold(2, height, down)[:, :, :rows].unfold(3, width, right)[:, :, :, :columns]
    return windows.transpose(3, 4).flatten(4).flatten(2, 3)


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, (tuple, list)) else (value, value)
    return first, second


_SIGNATURES: dict[type[nn.Module], inspect.Signature] = {
    nn.ELU: inspect.signature(F.elu),
    nn.LeakyReLU: inspect.signature(F.leaky_relu),
    nn.Softplus: inspect.signature(lambda input, beta=1.0, threshold=20.0: None),
} | {
    kind: inspect.signature(
        lambda input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False: None
    )
    for kind in (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
}

_MODULES: dict[Any, type[nn.Module]] = {
    function: kind
    for kind, functions in {
        nn.ReLU: (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
        nn.Sigmoid: (F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_),
        nn.Tanh: (F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_),
        nn.ELU: (F.elu,),
        nn.LeakyReLU: (F.leaky_relu,),
        nn.Softplus: (F.softplus,),
        nn.MaxPool1d: (F.max_pool1d, torch.max_pool1d),
        nn.MaxPool2d: (F.max_pool2d, torch.max_pool2d),
        nn.MaxPool3d: (F.max_pool3d, torch.max_pool3d),
    }.items()
    for function in functions
}
