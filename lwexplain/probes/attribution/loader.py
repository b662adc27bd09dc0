"""Attributions of any module for the images of a DataLoader, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.arguments import device_name, each_of, shown, user_code, whole_number
from lwexplain.data.batch_form import BatchForm
from lwexplain.data.given_batches import Batch, read_batch
from lwexplain.data.given_images import check_images
from lwexplain.devices import pick_device
from lwexplain.errors import CaptureError, ProbeError, UserCodeError
from lwexplain.models.foreign import check_model
from lwexplain.models.modules import in_evaluation, own_names, unwrap
from lwexplain.probes.attribution.base import (
    Explanation,
    Method,
    Network,
    NotApplicable,
    logits_of,
    network_of_model,
    rise_of,
)
from lwexplain.probes.attribution.baseline import colour_of_zero, zero_image_in_words
from lwexplain.probes.attribution.memory import Chunker, chunker_for
from lwexplain.probes.attribution.methods import method_of
from lwexplain.probes.attribution.missing_gradient import missing_gradient
from lwexplain.probes.attribution.quality import incomplete, residuals
from lwexplain.registry import nearest

MEMORY_BYTES = 512 * 2**20
TARGETS = ("predicted", "label")


@dataclass(frozen=True, eq=False)
class AttributionBatch:
    """Maps of some images, as the method gave them.

    ``maps`` (B, H, W) float32; ``targets`` (B,) int64, the classes explained; ``residuals`` (B,) float64, how far the
    sum of each map is off from f(x) - f(0), as a share of it, NaN where completeness is not defined; ``index`` (B,)
    int64, the third part of the given batch or else the position among all images; ``notes`` (B), why the map of an
    image must not be read, empty where nothing speaks against it (whether maps beat chance and depend on the weights,
    lw.analyze checks). ``about`` says what the method was relative to.

    It is a sequence of its images: ``len``, ``batch[i]``, a slice and a loop give batches, those of a single image
    with arrays of length 1.
    """

    maps: np.ndarray
    targets: np.ndarray
    residuals: np.ndarray
    index: np.ndarray
    notes: list[str]
    method: str = ""
    about: str = ""

    @property
    def valid(self) -> np.ndarray:
        """Whether each map may be read, (B,) bool."""
        return np.array([not note for note in self.notes], dtype=bool)

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, place: int | slice) -> "AttributionBatch":
        if not isinstance(place, slice):
            start = range(len(self))[place]
            place = slice(start, start + 1)
        return replace(
            self,
            maps=self.maps[place],
            targets=self.targets[place],
            residuals=self.residuals[place],
            index=self.index[place],
            notes=self.notes[place],
        )

    def __iter__(self) -> Iterator["AttributionBatch"]:
        return (self[place] for place in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.maps.shape[1:]
        valid = "all valid" if self.valid.all() else f"{int(self.valid.sum())} valid"
        return f"AttributionBatch({self.method}: {len(self)} maps of {height} x {width}, {valid})"


def attribute(
    model: nn.Module,
    batches: Iterable[Any],
    method: str | Method = "integrated_gradients",
    *,
    layer: str | None = None,
    target: str | int = "predicted",
    batch: Callable[[Any], Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str | torch.device | None = None,
    chunk: int | None = None,
) -> AttributionBatch:
    """Heat maps of all images of a loader: which pixels a module's logits rest on.

    The maps of all images come in one object; ``attribute_batches`` holds only one batch at a time. The model works in
    evaluation mode and is as before afterwards.

    Args:
        model: A module that returns logits (N, K), alone or in a tuple, mapping or object.
        batches: A DataLoader, a list or a generator of images (B, C, H, W), or of (images, labels), or of (images,
            labels, index), or of mappings and objects that name them (``pixel_values``, ``images``, ``labels``, ...).
            Images are floats, normalised as for the network, or uint8.
        method: ``saliency``, ``gradient_x_input``, ``integrated_gradients``, ``grad_cam``, ``deep_lift``,
            ``occlusion``, ``layer_conductance``, or a Method.
        layer: The module that ``grad_cam`` and ``layer_conductance`` explain through, by name.
        target: The class explained: ``predicted``, ``label`` (the batch's labels) or a class number.
        batch: A function from a batch of any other form to images, or to (images, labels).
        mean: Of pixels in [0, 1], a value a channel: what the network was trained with. Images of uint8 are normalised
            by it, and scaled to [0, 1] without it; it also says what the zero image is.
        std: Likewise.
        device: Where images go, by default where the model lies.
        chunk: Most rows of one forward pass; by default as many as fit into the memory.

    Returns:
        The maps with their classes, completeness residuals and notes. It is a sequence of its images.

    Raises:
        ProbeError: The method, the layer or the target is unknown, the method has no meaning for the layer or needs
            gradients that the model cuts off, there are no images or images of several sizes, or one image alone does
            not fit into the memory.
        ModelError: The model is no module, or one that cannot be run.

    Examples:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> maps = lw.attribute(model, [torch.rand(5, 1, 8, 8)], method="saliency")
        >>> maps.maps.shape
        (5, 8, 8)
    """
    found = attribute_batches(
        model, batches, method, layer=layer, target=target, batch=batch, mean=mean, std=std, device=device, chunk=chunk
    )
    parts = list(found)
    if not parts:
        raise ProbeError("attribute: the batches hold no images")
    shapes = {part.maps.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise ProbeError(
            f"attribute: images of several sizes {sorted(shapes)} do not fit into one array; use attribute_batches"
        )
    return AttributionBatch(
        np.concatenate([part.maps for part in parts]),
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.residuals for part in parts]),
        np.concatenate([part.index for part in parts]),
        [note for part in parts for note in part.notes],
        parts[0].method,
        parts[0].about,
    )


def attribute_batches(
    model: nn.Module,
    batches: Iterable[Any],
    method: str | Method = "integrated_gradients",
    *,
    layer: str | None = None,
    target: str | int = "predicted",
    batch: Callable[[Any], Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str | torch.device | None = None,
    chunk: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[AttributionBatch]:
    """Explain a module's logits for a DataLoader, batch by batch.

    ``batches`` gives images (B, C, H, W), or (images, labels), or (images, labels, index), or what holds them under
    usual names (``parts_of``): a DataLoader, a list, a generator, or one such batch itself. ``batch``, ``mean`` and
    ``std`` are those of BatchForm. The model returns logits (N, K), alone or in a tuple, mapping or object
    (``logits_in``), and may be of half or double precision. ``method`` is a name of
    ``METHODS``; grad_cam and layer_conductance explain through the module named ``layer``. ``target`` is the class
    explained: ``predicted``, ``label`` (the batch's labels) or a class number. ``device`` is where images go, that of
    the model's first parameter by default. At most ``chunk`` rows go through the model at once; on the CPU as many as
    fit into half of ``memory_bytes``, and where memory is short half as many, and again. The model works in evaluation
    mode and is as before after each batch.

    Raises ProbeError for an unknown method, layer or target, where a method has no meaning for the layer or needs
    gradients that the model's forward pass cuts off, and where one image alone does not fit into memory.
    """
    model = unwrap(check_model(model))
    explainer = method_of(method)
    module = _module_of(model, layer)
    wanted = _read_target(target)
    if chunk is not None:
        chunk = whole_number("attribute: chunk", chunk, least=1, none="for as many as fit", family=ProbeError)
    if not isinstance(batches, Iterable):
        raise ProbeError(
            f"attribute: batches is {shown(batches)}; expected a DataLoader or a list of batches of images (B, C, H, W)"
        )
    asked = device_name(device)
    where = pick_device(asked) if asked else next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        form = BatchForm.of(batch, mean, std)
    except CaptureError as error:
        raise ProbeError(f"attribute: {error}") from None
    task = _Task(model, network_of_model(model, module), explainer, wanted, where, chunk, memory_bytes, form)
    return task.explain_all([batches] if _is_one_batch(batches) else batches)


def _module_of(model: nn.Module, layer: Any) -> nn.Module | None:
    """The module named ``layer``; None where none is named."""
    if layer is None:
        return None
    modules = dict(model.named_modules())
    if isinstance(layer, str):
        (layer,) = own_names(model, [layer])
    if not isinstance(layer, str) or layer not in modules:
        hint = nearest(layer, [name for name in modules if name]) if isinstance(layer, str) else "name it by text"
        raise ProbeError(f"attribute: the model has no layer {shown(layer)}; {hint}")
    return modules[layer]


def _read_target(target: Any) -> str | int:
    if isinstance(target, str) and target in TARGETS:
        return target
    if isinstance(target, bool) or not isinstance(target, Integral):
        raise ProbeError(f"attribute: target is {shown(target)}; expected predicted, label or a class number")
    return int(target)


@dataclass
class _Task:
    """What is explained, how and where; ``chunker`` and ``about`` are found with the first images."""

    model: nn.Module
    network: Network
    explainer: Method
    target: str | int
    device: torch.device
    chunk: int | None
    memory_bytes: int
    form: BatchForm
    chunker: Chunker | None = None
    about: str = ""

    def explain_all(self, batches: Iterable[Any]) -> Iterator[AttributionBatch]:
        """The maps of batch after batch; empty batches are passed over."""
        position = 0
        for number, item in enumerate(each_of(batches, "attribute: the loader"), start=1):
            batch = _batch_of(item, number, self.form)
            n = len(batch.images)
            if n:
                index = np.arange(position, position + n, dtype=np.int64) if batch.index is None else batch.index
                yield self._explain(batch, index, is_first=number == 1)
            position += n

    def _explain(self, batch: Batch, index: np.ndarray, *, is_first: bool) -> AttributionBatch:
        images = batch.images.detach().to(self.device)
        with in_evaluation(self.model):
            with user_code(f"attribute: the model, given {shown(images)},"):
                chunker = self._chunker_for(images, were_pixels=batch.were_pixels)
                logits = logits_of(self.network, images, chunker)
            targets = _targets(self.target, batch.labels, logits)
            with user_code(f"attribute: the model, given {shown(images[:1])},"):
                if is_first and self.explainer.needs_gradient and (cut := missing_gradient(self.network, images[:1])):
                    raise ProbeError(f"attribute: {self.explainer.name} needs gradients, and {cut}")
            found = self._maps_of(images, targets, chunker)
            off = torch.full((len(images),), torch.nan, dtype=torch.float64)
            if found.totals is not None:
                off = residuals(found.totals, rise_of(self.network, images, targets, chunker))
        notes = _notes(found.maps, off, self.explainer.max_residual)
        maps, classes = found.maps.numpy(), targets.cpu().numpy()
        return AttributionBatch(maps, classes, off.numpy(), index, notes, self.explainer.name, self.about)

    def _chunker_for(self, images: Tensor, *, were_pixels: bool) -> Chunker:
        if self.chunker is None:
            self.chunker = chunker_for(self.network, images[:1], self.memory_bytes, self.chunk)
            zero = zero_image_in_words(images, colour_of_zero(self.form.mean, were_pixels=were_pixels))
            self.about = f"baseline: {zero}" if self.explainer.baseline else ""
        return self.chunker

    def _maps_of(self, images: Tensor, targets: Tensor, chunker: Chunker) -> Explanation:
        try:
            with user_code(f"attribute: {self.explainer.name} of the model"):
                return self.explainer.explain(self.network, images, targets, chunker)
        except UserCodeError as error:
            if isinstance(error.__cause__, NotApplicable):
                raise ProbeError(f"attribute: {error.__cause__}") from None
            raise


def _is_one_batch(batches: Any) -> bool:
    """Whether what was given is one batch and not a source of batches: images, or images with one label each."""
    if isinstance(batches, (Tensor, Mapping)):
        return True
    if not isinstance(batches, (tuple, list)) or len(batches) not in (2, 3):
        return False
    images, labels = batches[:2]
    shape = getattr(labels, "shape", None)
    return isinstance(images, Tensor) and images.ndim == 4 and shape is not None and tuple(shape) == (len(images),)


def _notes(maps: Tensor, residuals: Tensor, bound: float | None) -> list[str]:
    """Why the map of each image must not be read; empty where nothing speaks against it."""
    notes = []
    for values, residual in zip(maps, residuals.tolist(), strict=True):
        if not torch.isfinite(values).all():
            notes.append("the map holds NaN or infinity")
        elif not values.any():
            notes.append("the map is zero everywhere")
        elif bound is not None and residual > bound:
            notes.append(incomplete(residual, bound))
        else:
            notes.append("")
    return notes


def _batch_of(item: Any, number: int, form: BatchForm) -> Batch:
    """The images of the batch of this ``number``, with labels and index where there are some."""
    where = f"attribute: batch {number}"
    try:
        batch = read_batch(item, where, form, labelled=False)
        check_images(batch.images, where, pictures=True)
        form.check_channels(batch.images, where)
    except CaptureError as error:
        raise ProbeError(str(error)) from None
    return batch


def _targets(target: str | int, labels: np.ndarray, logits: Tensor) -> Tensor:
    """The class to explain per image, (B,) int64 in [0, K)."""
    if target == "predicted":
        return logits.argmax(1)
    if target == "label":
        if not len(labels):
            raise ProbeError("attribute: target is 'label', but the batches hold images only; use target='predicted'")
        chosen = torch.from_numpy(labels).to(logits.device)
    else:
        chosen = torch.full((len(logits),), int(target), dtype=torch.int64, device=logits.device)
    if not bool(((chosen >= 0) & (chosen < logits.shape[1])).all()):
        raise ProbeError(
            f"attribute: targets run from {int(chosen.min())} to {int(chosen.max())}; "
            f"the model has {logits.shape[1]} classes"
        )
    return chosen
