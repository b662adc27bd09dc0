"""Which pixels a stage's prediction rests on: Captum's methods through the stage and its head, each with a
check."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lwexplain.errors import ProbeError
from lwexplain.probes.base import PROBES, Attribution, Measurement, StageData
from lwexplain.probes.linear import fit_linear_probe

METHODS = ("saliency", "integrated_gradients", "grad_cam")
CHUNK = 16  # images explained at once
MAX_RESIDUAL = 0.1
EPSILON = 1e-3  # logit differences below this count as this much in the residual


class NotApplicable(Exception):
    """A method has no meaning for this stage; the text says why."""


@PROBES.register("attribution")
class AttributionMaps:
    """Saliency, integrated gradients and Grad-CAM of the sample images, towards the class the stage predicts.

    The class comes from the stage's head, or from its linear probe where it has none (the note says so). Maps
    (M, H, W) float32: saliency, largest |gradient| over channels (Simonyan et al. 2013); integrated
    gradients, summed over channels, signed (Sundararajan et al. 2017); Grad-CAM on the stage's output,
    signed, upsampled (Selvaraju et al. 2017). The baseline of integrated gradients is zero in normalised
    units, which is the mean of train (a uniform image in its mean colour), not black.

    Row ``ig_completeness_residual``: mean over images of |sum of the map - (f(x) - f(0))| / |f(x) - f(0)|.
    A map that is not finite or zero everywhere, a mean residual above 0.1, or a method without meaning for
    the stage makes an Attribution invalid, its note says why. Returns nothing where the stage carries no
    images.
    """

    name = "attribution"

    def __init__(self, steps: int = 32, chunk: int = CHUNK) -> None:
        self.steps, self.chunk = steps, chunk

    def measure(self, stage: StageData) -> list[Attribution | Measurement]:
        if stage.images is None:
            return []
        if stage.model_to_stage is None:
            raise ProbeError(f"stage {stage.name!r} has sample images but no function from images to its output")
        to_stage = stage.model_to_stage
        head, about = _head_of(stage)

        def logits(x: Tensor) -> Tensor:
            return head(to_stage(x).clone())  # a copy, for the head may begin with an in-place layer

        images = stage.images.detach()
        with torch.no_grad():
            targets = torch.cat([logits(part.clone()).argmax(1) for part in images.split(self.chunk)])
        rows: list[Attribution | Measurement] = []

        def explain(method: str, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            """Compute chunk by chunk, check, and file the result; the maps are returned as computed."""
            maps, note = torch.zeros(len(images), *images.shape[-2:]), ""
            try:
                parts = zip(images.split(self.chunk), targets.split(self.chunk), strict=True)
                with torch.enable_grad():
                    maps = torch.cat([compute(x.clone().requires_grad_(), t).detach().cpu() for x, t in parts])
                note = _why_unusable(maps)
            except NotApplicable as reason:
                note = str(reason)
            except Exception as error:
                note = f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
            kept = torch.nan_to_num(maps.float(), posinf=0.0, neginf=0.0).numpy()
            text = "; ".join(part for part in (note, about) if part)
            rows.append(Attribution(method, kept, targets.cpu().numpy(), not note, text))
            return maps

        explain("saliency", lambda x, target: saliency(logits, x, target))
        maps = explain("integrated_gradients", lambda x, t: integrated_gradients(logits, x, t, self.steps))
        index = len(rows) - 1
        explain("grad_cam", lambda x, target: grad_cam(to_stage, head, x, target))

        ig = rows[index]
        assert isinstance(ig, Attribution)
        if ig.valid:
            residual = completeness_residual(logits, images, targets, maps, self.chunk)
            rows.append(
                Measurement("ig_completeness_residual", residual, "val", n=len(images), note=f"{self.steps} steps")
            )
            if not residual <= MAX_RESIDUAL:
                note = f"completeness residual {residual:.2f} is above {MAX_RESIDUAL}"
                text = "; ".join(part for part in (note, about) if part)
                rows[index] = Attribution(ig.method, ig.maps, ig.targets, False, text)
        return rows


def saliency(logits: Callable[[Tensor], Tensor], x: Tensor, target: Tensor) -> Tensor:
    """|d logit / d pixel|, its largest value over channels: (M, C, H, W) -> (M, H, W)."""
    from captum.attr import Saliency

    return Saliency(logits).attribute(x, target=target, abs=True).amax(1)


def integrated_gradients(logits: Callable[[Tensor], Tensor], x: Tensor, target: Tensor, steps: int) -> Tensor:
    """Gradients integrated from zero to x, times x, summed over channels: (M, C, H, W) -> (M, H, W)."""
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(logits)
    return method.attribute(x, target=target, n_steps=steps, internal_batch_size=4 * len(x)).sum(1)


def grad_cam(
    to_stage: Callable[[Tensor], Tensor], head: Callable[[Tensor], Tensor], x: Tensor, target: Tensor
) -> Tensor:
    """Stage output weighted by its mean gradient, summed over channels, upsampled: -> (M, H, W), signed.

    Token outputs (N, T, D) are laid out on their square grid, without a class token. Raises NotApplicable
    for an output without spatial extent.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    model = _GridModel(to_stage, head)
    maps = LayerGradCam(model, model.grid).attribute(x, target=target)
    return LayerAttribution.interpolate(maps, tuple(x.shape[-2:]), interpolate_mode="bilinear")[:, 0]


def completeness_residual(
    logits: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, maps: Tensor, chunk: int = CHUNK
) -> float:
    """Mean over images of |sum of the map - (f(x) - f(0))| / max(|f(x) - f(0)|, 1e-3), f the target's
    logit."""
    with torch.no_grad():
        rises = []
        for x, target in zip(images.split(chunk), targets.split(chunk), strict=True):
            rise = logits(x.clone()) - logits(torch.zeros_like(x))
            rises.append(rise.gather(1, target[:, None])[:, 0].double().cpu())
        rise = torch.cat(rises)
        residual = (maps.double().sum((1, 2)) - rise).abs() / rise.abs().clamp(min=EPSILON)
    return float(residual.mean())


class _GridModel(nn.Module):
    """Images -> logits, with the stage's output passing through ``grid`` as (N, C, H, W) for LayerGradCam."""

    def __init__(self, to_stage: Callable[[Tensor], Tensor], head: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.grid = nn.Identity()
        self.functions = (to_stage, head)  # in a tuple, so that they do not become submodules

    def forward(self, x: Tensor) -> Tensor:
        to_stage, head = self.functions
        raw = to_stage(x)
        if raw.ndim == 3:
            first = _class_tokens(raw)
            side = round((raw.shape[1] - first) ** 0.5)
            grid = self.grid(raw[:, first:].transpose(1, 2).unflatten(2, (side, side)))
            return head(torch.cat([raw[:, :first], grid.flatten(2).transpose(1, 2)], dim=1))
        if raw.ndim != 4 or raw.shape[-2:].numel() == 1:
            raise NotApplicable(f"Grad-CAM needs a spatial output; this stage gives {tuple(raw.shape)}")
        return head(self.grid(raw).clone())


def _class_tokens(raw: Tensor) -> int:
    """How many tokens (0 or 1) stand before a square grid of tokens; raises NotApplicable where none fits."""
    tokens = raw.shape[1]
    for first in (0, 1):
        side = round(max(tokens - first, 0) ** 0.5)
        if side > 1 and side * side == tokens - first:
            return first
    raise NotApplicable(f"Grad-CAM needs a square grid of tokens; this stage gives {tuple(raw.shape)}")


def _head_of(stage: StageData) -> tuple[Callable[[Tensor], Tensor], str]:
    """Raw output -> logits, and the remark where the stage has no head of its own."""
    if stage.head is not None:
        return stage.head, ""
    if stage.pool is None:
        raise ProbeError(f"stage {stage.name!r} has neither a head nor a pooling for its linear probe to start from")
    pool, probe = stage.pool, fit_linear_probe(stage)
    return lambda raw: probe.head(pool(raw)), "through the linear probe"


def _why_unusable(maps: Tensor) -> str:
    if not torch.isfinite(maps).all():
        return "the map holds NaN or infinity"
    zero = int((maps.flatten(1) == 0).all(1).sum())
    return f"the map is zero everywhere for {zero} of {len(maps)} images" if zero else ""
