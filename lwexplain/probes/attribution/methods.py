"""The attribution methods by name."""

from collections.abc import Sequence

from lwexplain.arguments import shown
from lwexplain.errors import ProbeError
from lwexplain.probes.attribution.base import Method
from lwexplain.probes.attribution.deeplift import DeepLift
from lwexplain.probes.attribution.gradients import GradientXInput, Saliency
from lwexplain.probes.attribution.integrated import IntegratedGradients
from lwexplain.probes.attribution.layer import GradCam, LayerConductance
from lwexplain.probes.attribution.occlusion import Occlusion
from lwexplain.registry import nearest

KINDS = (Saliency, GradientXInput, IntegratedGradients, GradCam, DeepLift, Occlusion, LayerConductance)
METHODS = tuple(kind.name for kind in KINDS)
DEFAULT_METHODS = ("saliency", "gradient_x_input", "integrated_gradients", "grad_cam", "deep_lift")
"""Occlusion and layer conductance cost about as much as all of these together; they are made where asked for."""


def method_of(method: str | Method) -> Method:
    """The method of a name, or the given one; raises ProbeError with the nearest names."""
    if isinstance(method, Method):
        return method
    for kind in KINDS:
        if isinstance(method, str) and kind.name == method:
            return kind()
    hint = nearest(method, list(METHODS)) if isinstance(method, str) else f"known: {', '.join(METHODS)}"
    raise ProbeError(f"unknown attribution method {shown(method)}; {hint}")


def methods_of(methods: Sequence[str | Method]) -> tuple[Method, ...]:
    """Methods by their names; raises ProbeError for no list, none, an unknown one, and one that stands twice."""
    if isinstance(methods, str) or not isinstance(methods, Sequence) or not methods:
        raise ProbeError(
            f"attribution: methods is {methods!r}; expected a list with at least one of {', '.join(METHODS)}"
        )
    found = tuple(method_of(method) for method in methods)
    names = [method.name for method in found]
    if len(set(names)) < len(names):
        raise ProbeError(f"attribution: methods is {names}, in which one stands twice")
    return found
