"""Integrated gradients, with as many steps as completeness takes."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lwexplain.probes.attribution.base import Explanation, Method, Network
from lwexplain.probes.attribution.memory import Chunker

FIRST_STEPS = 16
MOST_STEPS = 1024
QUICK_STEPS = 6

SHORTEST = 1e-6
"""Shortest segment, as a share of the path; a shorter one is within rounding, and its error is that of a jump."""

MAX_RESIDUAL = 0.01
"""Largest residual of a valid map, as a share of the logit difference f(x) - f(0)."""

TARGET = 0.8 * MAX_RESIDUAL
"""Residual aimed at in each image, so that all images together stay below MAX_RESIDUAL."""

SMALL_RISE = 0.25
"""Share of the mean rise of the images that a smaller rise counts as."""


class Segment(NamedTuple):
    """A piece of the straight path from zero (0) to an image (1)."""

    image: int
    start: float
    end: float


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """Gradients integrated from zero to the image, times the image, summed over channels (Sundararajan et al. 2017,
    eq. 1). Signed.

    The path is cut into ``steps`` segments, and Captum integrates over each with one step, at its middle. A map whose
    sum is within 0.8 % of its rise f(x) - f(0) is complete, and costs no more than f(x) and f(0) besides its gradients.
    (A rise below a quarter of the mean one counts as that much: one near zero would take any number of gradients for
    nothing. With 0.8 % all images together stay within 1 %.)
    Completeness holds for every segment too: where a map is not complete, f at the ends of its segments gives the error
    of each, and those whose error is at least 70 % of the largest are cut in three (the middle third keeps the gradient
    it has), until the map is complete, or the image has had ``most_steps`` gradients, or their maps fill a quarter of
    the memory, or the segments are too short to be cut. A network of ReLUs is linear in pieces along the path, so that
    few places need many steps.

    Errors of opposite sign can cancel, and a map of few steps be complete by luck. A start with 16 is the trade: on a
    trained ResNet-18 with linear heads (stages 1, 5 and 9; 12 images) the maps differ from those of 200 steps by 1.4 %
    (mean relative L1; worst image 3.7 %), for 31 gradients and evaluations an image; with 24 by 1.2 % (2.9 %) for 40,
    with 8 by 2.9 % (11 %) for 20.
    """

    steps: int = FIRST_STEPS
    most_steps: int = MOST_STEPS
    name = "integrated_gradients"
    max_residual = MAX_RESIDUAL
    baseline = True
    needs_gradient = True

    def quick(self) -> Method:
        return replace(self, steps=QUICK_STEPS, most_steps=QUICK_STEPS)

    def images_at_once(self, x: Tensor, chunker: Chunker) -> int:
        """As many as leave room for the map of every segment."""
        return max(1, min(chunker.size, self._maps_that_fit(x, chunker) // self.most_steps))

    def _maps_that_fit(self, x: Tensor, chunker: Chunker) -> int:
        """How many maps of segments a quarter of the memory holds."""
        return chunker.memory_bytes // 4 // (4 * x[0, 0].numel())

    def compute(self, network: Network, x: Tensor, target: Tensor, chunker: Chunker) -> Explanation:
        path = _Path(network, x, target, chunker.size)
        most = max(self.steps, min(self.most_steps, self._maps_that_fit(x, chunker)))
        cuts = [
            Segment(image, k / self.steps, (k + 1) / self.steps) for image in range(len(x)) for k in range(self.steps)
        ]
        found: list[dict[Segment, Tensor]] = [{} for _ in x]  # the map (H, W) of each segment, per image
        spent = torch.zeros(len(x), dtype=torch.int64)
        while cuts:
            for cut, part in zip(cuts, path.integrate(cuts), strict=True):
                found[cut.image][cut] = part
                spent[cut.image] += 1
            unfinished = [image for image in {cut.image for cut in cuts} if spent[image] < most]
            path.evaluate([Segment(image, 0.0, 1.0) for image in unfinished])
            least = SMALL_RISE * path.mean_rise()
            incomplete = [image for image in unfinished if not _is_complete(found[image], path, image, least)]
            path.evaluate([cut for image in incomplete for cut in found[image]])
            cuts = [cut for image in incomplete for cut in _refine(found[image], path)]
        maps = torch.stack([torch.stack(list(parts.values())).sum(0) for parts in found])
        return Explanation(maps, maps.double().sum((1, 2)), spent)


def _is_complete(parts: dict[Segment, Tensor], path: "_Path", image: int, least: float) -> bool:
    """Whether the parts of one image's map add up to its rise, or to ``least`` where that is larger, within TARGET, or
    within what the precision of the network can tell."""
    rise = path.rise(Segment(image, 0.0, 1.0))
    enough = max(TARGET * max(abs(rise), least), path.rounding(image))
    return abs(sum(_total(part) for part in parts.values()) - rise) <= enough


def _refine(parts: dict[Segment, Tensor], path: "_Path") -> list[Segment]:
    """Cut the worst segments of one image in three: the middle thirds go into ``parts``, the others are returned. No
    segment is where what is wrong is a jump."""
    errors = {cut: abs(_total(part) - path.rise(cut)) for cut, part in parts.items() if cut.end - cut.start > SHORTEST}
    largest = max(errors.values(), default=0.0)
    outer = []
    for cut in [cut for cut, error in errors.items() if error >= 0.7 * largest]:
        third = (cut.end - cut.start) / 3
        first, last = cut.start + third, cut.end - third
        parts[Segment(cut.image, first, last)] = parts.pop(cut) / 3
        outer += [Segment(cut.image, cut.start, first), Segment(cut.image, last, cut.end)]
    return outer


def _total(part: Tensor) -> float:
    return float(part.double().sum())


class _Path:
    """The straight path from zero to each image: gradients and values of the target's logit along it."""

    def __init__(self, network: Network, x: Tensor, target: Tensor, batch: int) -> None:
        from captum.attr import IntegratedGradients as CaptumIntegratedGradients

        self.network, self.x, self.target, self.batch = network, x, target, batch
        self.captum = CaptumIntegratedGradients(network)
        with torch.no_grad():  # all paths begin at the same image
            at_zero = network(torch.zeros_like(x[:1]))[0, target].tolist()
        self.values = {(image, 0.0): value for image, value in enumerate(at_zero)}

    def integrate(self, cuts: list[Segment]) -> list[Tensor]:
        """The map (H, W) of each segment, from the gradient at its middle."""
        maps: list[Tensor] = []
        for begin in range(0, len(cuts), self.batch):
            part = cuts[begin : begin + self.batch]
            images = [cut.image for cut in part]
            start, end = (self._at(images, [cut[field] for cut in part]) for field in (1, 2))
            found = self.captum.attribute(end, baselines=start, target=self.target[images], n_steps=1)
            maps.extend(found.detach().sum(1).unbind())
        return maps

    def evaluate(self, cuts: list[Segment]) -> None:
        """Find the logit at the ends of the segments."""
        ends = {(cut.image, place) for cut in cuts for place in (cut.start, cut.end)}
        wanted = sorted(ends - self.values.keys())
        for begin in range(0, len(wanted), self.batch):
            part = wanted[begin : begin + self.batch]
            images = [image for image, _ in part]
            with torch.no_grad():
                logits = self.network(self._at(images, [place for _, place in part]))
            self.values.update(zip(part, logits.gather(1, self.target[images][:, None])[:, 0].tolist(), strict=True))

    def mean_rise(self) -> float:
        """Mean over images of |f(x) - f(0)|, of those evaluated."""
        rises = [abs(self.values[image, 1.0] - self.values[image, 0.0]) for image, end in self.values if end == 1.0]
        return sum(rises) / max(1, len(rises))

    def rise(self, cut: Segment) -> float:
        return self.values[cut.image, cut.end] - self.values[cut.image, cut.start]

    def rounding(self, image: int) -> float:
        """What the logits at the ends of a path, and as many sums of gradients, may be off by through rounding."""
        return 4 * self.network.rounding * max(abs(self.values[image, 0.0]), abs(self.values[image, 1.0]))

    def _at(self, images: list[int], places: list[float]) -> Tensor:
        return self.x[images] * self.x.new_tensor(places)[:, None, None, None]
