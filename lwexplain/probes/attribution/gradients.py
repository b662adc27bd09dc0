"""Gradients at the image: saliency and gradient x input."""

from torch import Tensor

from lwexplain.probes.attribution.base import Explanation, Method, Network
from lwexplain.probes.attribution.memory import Chunker


class Saliency(Method):
    """|d logit / d pixel|, its largest value over channels (Simonyan et al. 2013). Never negative."""

    name = "saliency"
    needs_gradient = True

    def compute(self, network: Network, x: Tensor, target: Tensor, chunker: Chunker) -> Explanation:
        from captum.attr import Saliency as CaptumSaliency

        return Explanation(CaptumSaliency(network).attribute(x, target=target, abs=True).amax(1))


class GradientXInput(Method):
    """Pixel times d logit / d pixel, summed over channels (Shrikumar et al. 2016). Signed."""

    name = "gradient_x_input"
    needs_gradient = True

    def compute(self, network: Network, x: Tensor, target: Tensor, chunker: Chunker) -> Explanation:
        from captum.attr import InputXGradient

        return Explanation(InputXGradient(network).attribute(x, target=target).sum(1))
