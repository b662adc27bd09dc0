"""Why the logits of a network carry no gradient to the image, in words."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lwexplain.probes.attribution.base import Network

REMEDY = "take that out, or use occlusion, which needs no gradients"


def missing_gradient(network: Network, image: Tensor) -> str:
    """What cuts the gradient from the logits to ``image`` (1, C, H, W); empty where nothing does."""
    with torch.inference_mode(False), torch.enable_grad():
        x = image.detach().clone().requires_grad_()
        with _Watch() as watch:
            logits = network(x)
        if not logits.requires_grad or torch.autograd.grad(logits.sum(), x, allow_unused=True)[0] is None:
            cause = watch.cause or "a step of its forward pass has no gradient"
            return f"the logits carry no gradient to the image, for {cause}; {REMEDY}"
    return ""


class _Watch(TorchFunctionMode):
    """While open, notes the first thing in a forward pass that gradients do not pass."""

    def __init__(self) -> None:
        super().__init__()
        self.cause = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if not self.cause:
            if torch.is_inference_mode_enabled():
                self.cause = "its forward pass runs under torch.inference_mode()"
            elif not torch.is_grad_enabled():
                self.cause = "its forward pass runs under torch.no_grad()"
            elif func in _CUTS and isinstance(args[0], Tensor) and args[0].requires_grad:
                self.cause = f"its forward pass calls {_CUTS[func]} on a tensor"
        return func(*args, **(kwargs or {}))


_CUTS: dict[Any, str] = {
    torch.detach: "detach()",
    torch.detach_: "detach_()",
    Tensor.detach: "detach()",
    Tensor.detach_: "detach_()",
    Tensor.data.__get__: ".data",  # type: ignore[attr-defined]
    Tensor.tolist: "tolist()",
    Tensor.item: "item()",
    torch.argmax: "argmax()",
    Tensor.argmax: "argmax()",
    torch.round: "round()",
    Tensor.round: "round()",
    torch.sign: "sign()",
    Tensor.sign: "sign()",
}
