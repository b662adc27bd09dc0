"""The probe: which pixels a stage's prediction rests on, by several methods, each with its quality."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lwexplain.errors import ProbeError
from lwexplain.probes.attribution.base import Explanation, Method, NotApplicable, gradients, logits_of, network_of_stage
from lwexplain.probes.attribution.baseline import zero_image_in_words
from lwexplain.probes.attribution.checks import CHECKS, Checked, check
from lwexplain.probes.attribution.memory import chunker_for
from lwexplain.probes.attribution.methods import DEFAULT_METHODS, methods_of
from lwexplain.probes.attribution.missing_gradient import missing_gradient
from lwexplain.probes.attribution.quality import Subject
from lwexplain.probes.base import PROBES, Attribution, Measurement, ProbeDefaults, StageData
from lwexplain.probes.linear.probe import fit_linear_probe
from lwexplain.probes.metrics import attribution as declared
from lwexplain.registry import nearest


@PROBES.register("attribution")
class AttributionMaps(ProbeDefaults):
    """Heat maps of the sample images towards the class the stage predicts, by several methods, with their quality.

    The class comes from the stage's head, or from its linear probe where it has none (the note says so). ``methods``
    are names of ``METHODS`` or Method objects; some are relative to the zero image, and the note says what that is:
    the mean colour of train in a run, where images are normalised by it, black where pixels run from 0 to 1. For each
    method an Attribution, maps (M, H, W) float32, and rows for the ``checks`` (val; n = images; METHOD stands for the
    method's name):

    - completeness: ``METHOD_completeness_residual``, the sum over images of |sum of the map - (f(x) - f(0))| over the
      sum of |f(x) - f(0)|, ``METHOD_completeness_residual_max``, the ratio of the worst image, and
      ``METHOD_incomplete_share``, the share of images whose own ratio is above the method's ``max_residual``; for
      methods for which it is defined.
    - insertion_deletion: ``METHOD_insertion_gain`` and ``METHOD_deletion_gain`` in [-1, 1], areas against random
      orders of the pixels, positive where the map is better than chance (Petsiuk et al. 2018).
    - sensitivity: ``METHOD_max_sensitivity``, largest relative change of the map under small noise (Yeh et al. 2019).
    - randomisation: rank correlations in [-1, 1] with the maps of the same network with shuffled weights, of the maps
      (``METHOD_randomisation_correlation``) and of their strength (``METHOD_randomisation_strength_correlation``), and
      of the strength with an edge detector of the image before and after shuffling (``METHOD_edge_correlation``,
      ``METHOD_edge_correlation_randomised``; Adebayo et al. 2018).

    Intervals are 95 %, over images. An Attribution is valid where its maps are better than chance and show the network
    rather than the image; it is invalid, with the cause in its note, where the method raised or has no meaning for the
    stage, where a map is not finite or zero everywhere, where the residual is above the method's ``max_residual`` (1 %
    for integrated gradients, else 10 %) over all images or for more than half of them, where neither gain is above 0
    with its interval, and where the maps are more than half structure of the image (bounds and why: randomisation.py).
    Each image has a note of its own where its map is incomplete or has no gain. ``chunk`` caps the rows of one forward
    pass, which also shrink by themselves where memory is short. Returns nothing where the stage carries no images.
    """

    name = "attribution"
    order = 140

    def __init__(
        self,
        methods: Sequence[str | Method] = DEFAULT_METHODS,
        checks: Sequence[str] = CHECKS,
        chunk: int | None = None,
    ) -> None:
        self.methods = methods_of(methods)
        if isinstance(checks, str) or not isinstance(checks, Sequence):
            raise ProbeError(f"attribution: checks is {checks!r}; expected a list of some of {', '.join(CHECKS)}")
        for name in checks:
            if name not in CHECKS:
                raise ProbeError(f"attribution: unknown check {name!r}; {nearest(str(name), list(CHECKS))}")
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
            raise ProbeError(f"attribution: chunk is {chunk!r}; expected a whole number from 1, or None")
        self.checks, self.chunk = frozenset(checks), chunk
        self.metrics = [metric for method in self.methods for metric in declared.metrics_of_method(method.name)]
        kinds = [{"class": type(method).__qualname__, **vars(method)} for method in self.methods]
        self.settings = {"methods": kinds, "checks": sorted(self.checks)}  # the chunk decides nothing

    def measure(self, stage: StageData) -> list[Attribution | Measurement]:
        if stage.images is None:
            return []
        if stage.model_to_stage is None:
            raise ProbeError(f"stage {stage.name!r} has sample images but no function from images to its output")
        head, about = _head_of(stage)
        network = network_of_stage(stage.model_to_stage, head)
        images = stage.images.detach()
        chunker = chunker_for(network, images[:1], stage.memory_bytes, self.chunk)
        targets = logits_of(network, images, chunker).argmax(1)
        subject = Subject(network, images, targets, chunker, stage.seed)
        zero = zero_image_in_words(images, stage.zero_image)
        results: list[Attribution | Measurement] = []
        for method in self.methods:
            results += self._explain(subject, method, about, zero)
        return results

    def _explain(self, subject: Subject, method: Method, about: str, zero: str) -> list[Attribution | Measurement]:
        """The maps of one method and their quality; ``zero`` says what the zero image is."""
        maps = torch.zeros(len(subject.images), *subject.images.shape[-2:])
        checked = Checked(image_causes=[[] for _ in maps])
        found: Explanation | None = None
        try:
            if method.needs_gradient and (cut := missing_gradient(subject.network, subject.images[:1])):
                raise NotApplicable(f"needs gradients, and {cut}")
            found = subject.explain(method)
            maps = found.maps
            cause = _why_unusable(maps)
            if not cause:
                checked = check(subject, method, found, self.checks)
                cause = "; ".join(checked.causes)
        except NotApplicable as reason:
            cause = str(reason)
        except Exception as error:
            cause = f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
        kept = torch.nan_to_num(maps, posinf=0.0, neginf=0.0).numpy()
        note = "; ".join(part for part in (cause, about, _how(method, found, zero), *checked.remarks) if part)
        targets = subject.targets.cpu().numpy()
        return [Attribution(method.name, kept, targets, not cause, note, checked.image_notes()), *checked.rows]


def _head_of(stage: StageData) -> tuple[Callable[[Tensor], Tensor], str]:
    """Raw output -> logits, and the remark where the stage has no head of its own."""
    if stage.head is not None:
        return stage.head, ""
    if stage.pool is None:
        raise ProbeError(f"stage {stage.name!r} has neither a head nor a pooling for its linear probe to start from")
    with gradients():
        head = _ProbeHead(stage.pool, stage)
    return head, "through the linear probe"


class _ProbeHead(nn.Module):
    """A pooling and the stage's fitted linear probe, whose weights are parameters like those of any head."""

    def __init__(self, pool: Callable[[Tensor], Tensor], stage: StageData) -> None:
        super().__init__()
        probe = fit_linear_probe(stage)
        self.pool = pool
        self.weight = nn.Parameter(probe.weight.float().to(stage.device), requires_grad=False)
        self.bias = nn.Parameter(probe.bias.float().to(stage.device), requires_grad=False)

    def forward(self, raw: Tensor) -> Tensor:
        return nn.functional.linear(self.pool(raw), self.weight, self.bias)


def _how(method: Method, found: Explanation | None, zero: str) -> str:
    """Steps and baseline, for the note."""
    parts = []
    if found is not None and found.steps is not None:
        fewest, most = int(found.steps.min()), int(found.steps.max())
        parts.append(f"{fewest} steps" if fewest == most else f"{fewest} to {most} steps")
    if method.baseline:
        parts.append(f"baseline: {zero}")
    return "; ".join(parts)


def _why_unusable(maps: Tensor) -> str:
    if not torch.isfinite(maps).all():
        return "the map holds NaN or infinity"
    zero = int((maps.flatten(1) == 0).all(1).sum())
    return f"the map is zero everywhere for {zero} of {len(maps)} images" if zero else ""
