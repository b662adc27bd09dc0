"""Methods at a layer of the network, upsampled to the image: Grad-CAM and layer conductance."""

import torch
from torch import Tensor, nn

from lwexplain.models.tokens import UnknownGrid, token_grid
from lwexplain.probes.attribution.base import Explanation, Method, Network, NotApplicable
from lwexplain.probes.attribution.memory import Chunker, is_out_of_memory
from lwexplain.probes.attribution.missing_gradient import missing_gradient

CONDUCTANCE_STEPS = 32
MOST_CONDUCTANCE_STEPS = 512

MAX_RESIDUAL = 0.1
"""Largest residual of a valid map, as a share of the logit difference f(x) - f(0)."""

QUICK_STEPS = 8


class GradCam(Method):
    """Layer output weighted by its mean gradient, summed over channels, upsampled (Selvaraju et al. 2017, eq. 1).

    Signed: the ReLU of eq. 2 is left out, for it hides what speaks against the class. Tokens (N, T, D) are laid out
    on the grid of the patches, without class and register tokens.
    """

    name = "grad_cam"

    def compute(self, network: Network, x: Tensor, target: Tensor, chunker: Chunker) -> Explanation:
        from captum.attr import LayerGradCam

        model = GridNetwork(network, "Grad-CAM", x[:1])
        try:
            found = LayerGradCam(model, model.grid).attribute(x, target=target)
        except RuntimeError as error:  # it needs gradients at the layer, not at the image
            cut = missing_gradient(network, x[:1])
            if not cut or is_out_of_memory(error):
                raise
            raise NotApplicable(cut) from None
        return Explanation(upsample(found, x))


class LayerConductance(Method):
    """How much of f(x) - f(0) flows through each place of a layer, summed over channels and upsampled (Dhamdhere et
    al. 2018, eq. 3). Signed.

    32 steps; images whose sum over the layer (before it is upsampled) is off by more than 10 % of f(x) - f(0) get
    twice as many, and so on up to 512. Tokens as for Grad-CAM; what flows through class and register tokens is not on
    the grid and is missing from the sum.
    """

    name = "layer_conductance"
    needs_gradient = True
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

        model = GridNetwork(network, "layer conductance", x[:1])
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
        return Explanation(upsample(layer, x), layer.double().sum((1, 2, 3)), spent)


class GridNetwork(nn.Module):
    """The network with its layer's output passing through ``grid`` as (N, C, H, W), for Captum's layer methods.

    A forward pass of ``example`` (1, C, H, W) finds how tokens lie over the image. Raises NotApplicable, which names
    the ``method``, for an output without spatial extent, for tokens whose grid is not certain, and for a layer that one
    forward pass uses more than once.
    """

    def __init__(self, network: Network, method: str, example: Tensor) -> None:
        super().__init__()
        self.grid = nn.Identity()
        self.source = (network,)  # in a tuple, so that it does not become a submodule
        self.method = method
        self.taps = 0
        self.images = 0
        height, width = example.shape[-2:]
        try:
            self.tokens = token_grid(lambda look: network.run_with(example.clone(), look), (height, width))
        except UnknownGrid as reason:
            raise NotApplicable(f"{method} needs to know where tokens lie over the image; {reason}") from None

    def forward(self, x: Tensor) -> Tensor:
        self.taps, self.images = 0, len(x)
        logits = self.source[0].run_with(x, self._through_grid)
        if not self.taps:
            raise NotApplicable(f"{self.method} needs a layer that a forward pass uses; this one is not")
        return logits

    def _through_grid(self, raw: Tensor) -> Tensor:
        self.taps += 1
        if self.taps > 1:
            raise NotApplicable(f"{self.method} needs a layer that is used once; this one is used several times")
        if not isinstance(raw, Tensor):
            raise NotApplicable(f"{self.method} needs a tensor; this layer gives a {type(raw).__name__}")
        if len(raw) != self.images:
            raise NotApplicable(
                f"{self.method} needs one output an image; this stage gives {tuple(raw.shape)} for {self.images} images"
            )
        if raw.ndim == 3 and self.tokens is not None:
            return self.tokens.from_grid(self.grid(self.tokens.to_grid(raw)), raw)
        if raw.ndim != 4 or raw.shape[-2:].numel() == 1:
            raise NotApplicable(f"{self.method} needs a spatial output; this stage gives {tuple(raw.shape)}")
        return self.grid(raw)


def upsample(maps: Tensor, x: Tensor) -> Tensor:
    """Maps (N, 1, h, w) of a layer -> (N, H, W), as large as the images, bilinear."""
    from captum.attr import LayerAttribution

    found = LayerAttribution.interpolate(maps.float(), tuple(x.shape[-2:]), interpolate_mode="bilinear")
    assert isinstance(found, Tensor)
    return found[:, 0]
