"""Attributions of any module for the images of a DataLoader, in bounded memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.errors import ProbeError
from lwexplain.models.modules import in_evaluation
from lwexplain.probes.attribution.base import Method, NotApplicable, logits_of, network_of_model, rise_of
from lwexplain.probes.attribution.memory import Chunker, chunker_for
from lwexplain.probes.attribution.methods import method_of
from lwexplain.probes.attribution.quality import residuals
from lwexplain.registry import nearest

MEMORY_BYTES = 512 * 2**20
TARGETS = ("predicted", "label")


@dataclass(frozen=True)
class AttributionBatch:
    """Maps of some images, as the method gave them.

    ``maps`` (B, H, W) float32; ``targets`` (B,) int64, the classes explained; ``residuals`` (B,) float64, how far the
    sum of each map is off from f(x) - f(0), as a share of it, NaN where completeness is not defined; ``index`` (B,)
    int64, the third part of the given batch or else the position among all images.
    """

    maps: np.ndarray
    targets: np.ndarray
    residuals: np.ndarray
    index: np.ndarray


def attribute(
    model: nn.Module,
    batches: Iterable[Any],
    method: str | Method = "integrated_gradients",
    *,
    layer: str | None = None,
    target: str | int = "predicted",
    device: str | torch.device | None = None,
    chunk: int | None = None,
) -> AttributionBatch:
    """The maps of all images of ``batches`` in one; see ``attribute_batches``, which holds only one batch at a time."""
    parts = list(attribute_batches(model, batches, method, layer=layer, target=target, device=device, chunk=chunk))
    if not parts:
        raise ProbeError("attribute: the batches hold no images")
    shapes = {part.maps.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise ProbeError(
            f"attribute: images of several sizes {sorted(shapes)} do not fit into one array; use attribute_batches"
        )
    return AttributionBatch(
        *(
            np.concatenate([getattr(part, field) for part in parts])
            for field in ("maps", "targets", "residuals", "index")
        )
    )


def attribute_batches(
    model: nn.Module,
    batches: Iterable[Any],
    method: str | Method = "integrated_gradients",
    *,
    layer: str | None = None,
    target: str | int = "predicted",
    device: str | torch.device | None = None,
    chunk: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[AttributionBatch]:
    """Explain a module's logits for a DataLoader, batch by batch.

    ``batches`` gives images (B, C, H, W), or (images, labels), or (images, labels, index). ``method`` is a name of
    ``METHODS``; grad_cam and layer_conductance explain through the module named ``layer``. ``target`` is the class
    explained: ``predicted``, ``label`` (the batch's labels) or a class number. ``device`` is where images go, that of
    the model's first parameter by default. At most ``chunk`` rows go through the model at once; on the CPU as many as
    fit into half of ``memory_bytes``, and where memory is short half as many, and again. The model works in evaluation
    mode and is as before after each batch.

    Raises ProbeError for an unknown method, layer or target, where a method has no meaning for the layer, and where
    one image alone does not fit into memory.
    """
    explainer = method_of(method)
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise ProbeError(
            f"attribute: the model has no layer {layer!r}; {nearest(layer, [name for name in modules if name])}"
        )
    if target not in TARGETS and (isinstance(target, bool) or not isinstance(target, int)):
        raise ProbeError(f"attribute: target is {target!r}; expected predicted, label or a class number")
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ProbeError(f"attribute: chunk is {chunk!r}; expected a whole number from 1, or None")
    network = network_of_model(model, modules[layer] if layer is not None else None)
    where = (
        torch.device(device)
        if device is not None
        else next((p.device for p in model.parameters()), torch.device("cpu"))
    )

    def explain() -> Iterator[AttributionBatch]:
        chunker: Chunker | None = None
        position = 0
        for batch in batches:
            images, labels, index = _parts_of(batch, position)
            position += len(images)
            if not len(images):
                continue
            images = images.to(where)
            with in_evaluation(model):
                if chunker is None:
                    chunker = chunker_for(network, images[:1], memory_bytes, chunk)
                targets = _targets(target, labels, logits_of(network, images, chunker))
                try:
                    found = explainer.explain(network, images, targets, chunker)
                except NotApplicable as reason:
                    raise ProbeError(f"attribute: {reason}") from None
                off = torch.full((len(images),), torch.nan, dtype=torch.float64)
                if found.totals is not None:
                    off = residuals(found.totals, rise_of(network, images, targets, chunker))
            yield AttributionBatch(found.maps.numpy(), targets.cpu().numpy(), off.numpy(), index)

    return explain()


def _parts_of(batch: Any, position: int) -> tuple[Tensor, Tensor | None, np.ndarray]:
    """Images, labels where there are some, and the index of each image."""
    parts = list(batch) if isinstance(batch, Sequence) else [batch]
    if not parts or not isinstance(parts[0], Tensor) or parts[0].ndim != 4:
        found = type(batch).__name__ if not parts or not isinstance(parts[0], Tensor) else tuple(parts[0].shape)
        raise ProbeError(
            f"attribute: a batch is {found}; "
            "expected images (B, C, H, W), or (images, labels), or (images, labels, index)"
        )
    images = parts[0].detach()
    labels = torch.as_tensor(parts[1]) if len(parts) > 1 else None
    index = torch.as_tensor(parts[2]) if len(parts) > 2 else torch.arange(position, position + len(images))
    for name, part in (("labels", labels), ("index", index)):
        if part is not None and part.shape != (len(images),):
            raise ProbeError(f"attribute: {name} of shape {tuple(part.shape)} for {len(images)} images")
    return images, labels, index.cpu().numpy().astype(np.int64)


def _targets(target: str | int, labels: Tensor | None, logits: Tensor) -> Tensor:
    """The class to explain per image, (B,) int64 in [0, K)."""
    if target == "predicted":
        return logits.argmax(1)
    if target == "label":
        if labels is None:
            raise ProbeError("attribute: target is 'label', but the batches hold images only; use target='predicted'")
        chosen = labels.to(logits.device, torch.int64)
    else:
        chosen = torch.full((len(logits),), int(target), dtype=torch.int64, device=logits.device)
    if not bool(((chosen >= 0) & (chosen < logits.shape[1])).all()):
        raise ProbeError(
            f"attribute: targets run from {int(chosen.min())} to {int(chosen.max())}; "
            f"the model has {logits.shape[1]} classes"
        )
    return chosen
