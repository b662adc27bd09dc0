"""Methods at a layer of the network, upsampled to the image: Grad-CAM and layer conductance."""

import torch
from torch import Tensor, nn

from lwexplain.probes.attribution.base import Explanation, Method, Network, NotApplicable
from lwexplain.probes.attribution.memory import Chunker

CONDUCTANCE_STEPS = 32
MOST_CONDUCTANCE_STEPS = 512
MAX_RESIDUAL = 0.1  # of the logit difference f(x) - f(0)
QUICK_STEPS = 8


class GradCam(Method):
    """Layer output weighted by its mean gradient, summed over channels, upsampled (Selvaraju et al. 2017, eq. 1).

    Signed: the ReLU of eq. 2 is left out, for it hides what speaks against the class. Tokens (N, T, D) are laid out
    on their square grid, without a class token.
    """

    name = "grad_cam"

    def compute(self, network: Network, x: Tensor, target: Tensor, chunker: Chunker) -> Explanation:
        from captum.attr import LayerGradCam

        model = GridNetwork(network, "Grad-CAM")
        return Explanation(upsampled(LayerGradCam(model, model.grid).attribute(x, target=target), x))


class LayerConductance(Method):
    """How much of f(x) - f(0) flows through each place of a layer, summed over channels and upsampled (Dhamdhere et
    al. 2018, eq. 3). Signed.

    32 steps; images whose sum over the layer (before it is upsampled) is off by more than 10 % of f(x) - f(0) get
    twice as many, and so on up to 512. Tokens as for Grad-CAM; where a class token exists, what flows through it is
    not on the grid and is missing from the sum.
    """

    name = "layer_conductance"
    max_residual = MAX_RESIDUAL
    baseline = True

    def __init__(self, steps: int = CONDUCTANCE_STEPS, most_steps: int = MOST_CONDUCTANCE_STEPS) -> None:
        self.steps, self.most_steps = steps, most_steps

    def quick(self) -> Method:
        return LayerConductance(QUICK_STEPS, QUICK_STEPS)

    def images_at_once(self, x: Tensor, chunker: Chunker) -> int:
        return max(1, chunker.size // 2)  # Captum takes two steps of every image at once, or more

    def compute(self, network: Network, x: Tensor, target: Tensor, chunker: Chunker) -> Explanation:
        from captum.attr import LayerConductance as CaptumLayerConductance

        model = GridNetwork(network, "layer conductance")
        captum = CaptumLayerConductance(model, model.grid)
        with torch.no_grad():
            rise = (network(x.clone()) - network(torch.zeros_like(x))).gather(1, target[:, None])[:, 0].double()
        maps: list[Tensor] = [torch.empty(0)] * len(x)
        spent = torch.zeros(len(x), dtype=torch.int64)
        pending, steps = torch.arange(len(x), device=x.device), self.steps
        while len(pending) and steps <= self.most_steps:
            found = captum.attribute(
                x[pending],
                target=target[pending],
                n_steps=steps,
                method="riemann_trapezoid",  # its steps begin at zero and end at the image, Gauss-Legendre's do not
                internal_batch_size=max(chunker.size, 2 * len(pending)),
            )
            found = found.detach().sum(1, keepdim=True)
            for image, part in zip(pending.tolist(), found, strict=True):
                maps[image] = part
                spent[image] += steps
            missing = (found.double().sum((1, 2, 3)) - rise[pending]).abs()
            pending = pending[missing > MAX_RESIDUAL * rise[pending].abs()]
            steps *= 2
        layer = torch.stack(maps)
        return Explanation(upsampled(layer, x), layer.double().sum((1, 2, 3)), spent)


class GridNetwork(nn.Module):
    """The network with its layer's output passing through ``grid`` as (N, C, H, W), for Captum's layer methods.

    Raises NotApplicable, which names the ``method``, for an output without spatial extent and for a layer that one
    forward pass uses more than once.
    """

    def __init__(self, network: Network, method: str) -> None:
        super().__init__()
        self.grid = nn.Identity()
        self.source = (network,)  # in a tuple, so that it does not become a submodule
        self.method = method
        self.taps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.taps = 0
        logits = self.source[0].tapped(x, self._through_grid)
        if not self.taps:
            raise NotApplicable(f"{self.method} needs a layer that a forward pass uses; this one is not")
        return logits

    def _through_grid(self, raw: Tensor) -> Tensor:
        self.taps += 1
        if self.taps > 1:
            raise NotApplicable(f"{self.method} needs a layer that is used once; this one is used several times")
        if not isinstance(raw, Tensor):
            raise NotApplicable(f"{self.method} needs a tensor; this layer gives a {type(raw).__name__}")
        if raw.ndim == 3:
            first = self._class_tokens(raw)
            side = round((raw.shape[1] - first) ** 0.5)
            grid = self.grid(raw[:, first:].transpose(1, 2).unflatten(2, (side, side)))
            return torch.cat([raw[:, :first], grid.flatten(2).transpose(1, 2)], dim=1)
        if raw.ndim != 4 or raw.shape[-2:].numel() == 1:
            raise NotApplicable(f"{self.method} needs a spatial output; this stage gives {tuple(raw.shape)}")
        return self.grid(raw)

    def _class_tokens(self, raw: Tensor) -> int:
        """How many tokens (0 or 1) stand before a square grid of tokens."""
        tokens = raw.shape[1]
        for first in (0, 1):
            side = round(max(tokens - first, 0) ** 0.5)
            if side > 1 and side * side == tokens - first:
                return first
        raise NotApplicable(f"{self.method} needs a square grid of tokens; this stage gives {tuple(raw.shape)}")


def upsampled(maps: Tensor, x: Tensor) -> Tensor:
    """Maps (N, 1, h, w) of a layer -> (N, H, W), as large as the images, bilinear."""
    from captum.attr import LayerAttribution

    found = LayerAttribution.interpolate(maps, tuple(x.shape[-2:]), interpolate_mode="bilinear")
    assert isinstance(found, Tensor)
    return found[:, 0]
