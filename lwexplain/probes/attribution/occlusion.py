"""Occlusion: how far the logit falls when a part of the image is covered."""

from torch import Tensor

from lwexplain.probes.attribution.base import Explanation, Method, Network
from lwexplain.probes.attribution.memory import Chunker


class Occlusion(Method):
    """Fall of the logit when a window is set to zero, mean over the windows that cover a pixel (Zeiler and Fergus
    2014). Signed.

    Windows are a quarter of the image's height and width, half a window apart, and cover all channels.
    """

    name = "occlusion"
    baseline = True

    def compute(self, network: Network, x: Tensor, target: Tensor, chunker: Chunker) -> Explanation:
        from captum.attr import Occlusion as CaptumOcclusion

        window = [max(1, round(side / 4)) for side in x.shape[-2:]]
        stride = [max(1, side // 2) for side in window]
        maps = CaptumOcclusion(network).attribute(
            x,
            sliding_window_shapes=(x.shape[1], *window),
            strides=(x.shape[1], *stride),
            target=target,
            baselines=0,
            perturbations_per_eval=max(1, chunker.size // len(x)),
        )
        return Explanation(maps[:, 0])
