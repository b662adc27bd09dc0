"""What is asked of a network: stages, the same features from a cut, costs of all depths, a file that computes the same.

``survey`` goes through all of it and says where it failed, if it did.
"""

import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from surveyed_networks import CLASSES, Surveyed
from torch import Tensor, nn

from lwexplain.errors import LwexplainError
from lwexplain.exporting.formats import open_network, write_network
from lwexplain.exporting.parity import parity
from lwexplain.models import latency
from lwexplain.models.calling import call_with_images
from lwexplain.models.cutting import CutNetwork, cut_network
from lwexplain.models.find_stages import find_stages
from lwexplain.models.heads.base import HEADS
from lwexplain.models.layout import layouts_of
from lwexplain.models.modules import find_modules, first_tensor, in_evaluation, path_and_call
from lwexplain.models.outputs import logits_in
from lwexplain.probes.cost import CostProbe

TOLERANCE = 1e-6
"""Largest difference of features, as a share of the largest of them."""


class NotAsPromised(Exception):
    """Something is not so that should be."""


@dataclass(frozen=True)
class Found:
    """What came of a network. ``way`` is how it was cut, ``export`` "equal" or why there is none, ``failure`` what went
    wrong, None where nothing did."""

    stages: list[str]
    way: str
    export: str
    parameters: int
    seconds: float
    failure: str | None


def survey(network: Surveyed, *, costs: bool = True, export: bool = True) -> Found:
    """Ask everything of one network."""
    start = time.perf_counter()
    stages: list[str] = []
    way = written = ""
    parameters = 0
    failure = None
    try:
        torch.manual_seed(0)
        model = network.build()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        images = torch.randn(2, 3, network.size, network.size)
        stages = find_stages(model, images[:1])
        _require(len(stages) >= 3, f"only {len(stages)} stages")
        cut = cut_network(model, stages, images, CLASSES)
        way = cut.way
        check_features(model, cut, images)
        if costs:
            check_costs(cut)
        if export:
            written = check_export(cut, images)
    except (
        LwexplainError,
        NotAsPromised,
        RuntimeError,
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        AssertionError,
    ) as error:
        failure = f"{type(error).__name__}: {error}"[:400]
    return Found(stages, way, written, parameters, time.perf_counter() - start, failure)


def check_features(model: nn.Module, cut: CutNetwork, images: Tensor) -> None:
    """The features that hooks see are those of the network recomputed up to each stage, and so are the logits."""
    wanted, logits = hooked_features(model, cut.names, images)
    for depth, name in enumerate(cut.names, start=1):
        with torch.no_grad():
            found = cut.prefix(depth)(images)
        _require(found.shape == wanted[name].shape, f"{name}: {tuple(found.shape)}, not {tuple(wanted[name].shape)}")
        _require_close(found, wanted[name], name)
    with torch.no_grad():
        _require_close(cut.whole(images), logits, "the logits")


def hooked_features(model: nn.Module, names: list[str], images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What each stage gives in a forward pass of the whole, its dimensions in order; and the logits."""
    modules = find_modules(model, names)
    kept: dict[str, Tensor] = {}
    calls: Counter[int] = Counter()

    def keep(module: nn.Module, _: object, output: object) -> None:
        calls[id(module)] += 1
        tensor = first_tensor(output)
        for name in [name for name, own in modules.items() if own is module]:
            if (path_and_call(name)[1] or 1) == calls[id(module)] and tensor is not None:
                kept[name] = tensor.clone()

    with in_evaluation(model), torch.no_grad():
        layouts = layouts_of(lambda x: call_with_images(model, x), modules, images[:1], within=model)
        for module in {id(module): module for module in modules.values()}.values():
            module.register_forward_hook(keep)
        logits = logits_in(call_with_images(model, images), len(images))
    keys = {name: (id(modules[name]), path_and_call(name)[1] or 1) for name in names}
    return {name: layouts[keys[name]].in_order(kept[name]) for name in names}, logits


def check_costs(cut: CutNetwork) -> None:
    """Every depth has its costs, and more parameters and FLOPs than the one before but for their heads."""
    seconds, rounds, warm_up = latency.SECONDS, latency.ROUNDS, latency.WARM_UP
    latency.SECONDS, latency.ROUNDS, latency.WARM_UP = 0.0, (1, 1), 0  # how long it takes is not asked here
    try:
        measured = CostProbe(cut, cut.names).measure_all([])
    finally:
        latency.SECONDS, latency.ROUNDS, latency.WARM_UP = seconds, rounds, warm_up
    _require(list(measured) == cut.names, f"costs of {len(measured)} depths of {cut.depth}")
    for name, rows in measured.items():
        found = {row.metric: row.value for row in rows}
        kinds = ("parameters", "flops", "memory_bytes", "latency_seconds")
        _require(all(found.get(kind, 0) > 0 for kind in kinds), f"costs of {name}: {found}")


def check_export(cut: CutNetwork, images: Tensor) -> str:
    """The network up to a third of its stages with a fresh head, written to a file, computes the same."""
    if not cut.is_exportable:
        return "; ".join(f"{way}: {reason}" for way, reason in cut.refusals.items())[:300]
    depth = (cut.depth + 2) // 3
    head = HEADS.create("linear", cut.sites()[depth - 1])
    short = nn.Sequential(cut.prefix(depth), head).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "short.pt2"
        write_network(short, (images,), path, "pt2", input_names=["images"], output_names=["logits"], metadata={})
        run = open_network(path, "pt2")
        differences = parity(lambda batch: run(batch)[0], short, images)
    for size, difference in differences.items():
        _require(difference.is_rounding, f"the file differs by {difference.value:.2g} at batch {size}")
    return "equal"


def _require_close(found: Tensor, wanted: Tensor, what: str) -> None:
    scale = max(float(wanted.abs().max()), 1e-30)
    difference = float((found - wanted).abs().max()) / scale
    _require(difference <= TOLERANCE, f"{what} differ by {difference:.2g} of the largest")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise NotAsPromised(what)
