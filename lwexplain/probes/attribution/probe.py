"""The probe: which pixels a stage's prediction rests on, by several methods, each with its quality."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.errors import ProbeError
from lwexplain.probes.attribution.base import Explanation, Method, NotApplicable, gradients, logits_of, network_of_stage
from lwexplain.probes.attribution.curves import CURVE_STEPS, RANDOM_ORDERS
from lwexplain.probes.attribution.memory import chunker_for
from lwexplain.probes.attribution.methods import DEFAULT_METHODS, methods_of
from lwexplain.probes.attribution.quality import NOISE_DRAWS, NOISE_RADIUS, Subject, mean_interval
from lwexplain.probes.attribution.randomisation import MAX_CORRELATION
from lwexplain.probes.base import PROBES, Attribution, Measurement, StageData
from lwexplain.probes.linear.probe import fit_linear_probe
from lwexplain.registry import nearest

CHECKS = ("completeness", "insertion_deletion", "sensitivity", "randomisation")


@PROBES.register("attribution")
class AttributionMaps:
    """Heat maps of the sample images towards the class the stage predicts, by several methods, with their quality.

    The class comes from the stage's head, or from its linear probe where it has none (the note says so). ``methods``
    are names of ``METHODS`` or Method objects; the zero image that some are relative to is the mean of train in
    normalised units (a uniform image in its mean colour), not black. For each method an Attribution, maps (M, H, W)
    float32, and rows for the ``checks`` (val; n = images; METHOD stands for the method's name):

    - completeness: ``METHOD_completeness_residual``, the sum over images of |sum of the map - (f(x) - f(0))| over the
      sum of |f(x) - f(0)|, and ``METHOD_completeness_residual_max``, the ratio of the worst image; for methods for
      which it is defined.
    - insertion_deletion: ``METHOD_insertion_gain`` and ``METHOD_deletion_gain`` in [-1, 1], areas against random
      orders of the pixels, positive where the map is better than chance (Petsiuk et al. 2018).
    - sensitivity: ``METHOD_max_sensitivity``, largest relative change of the map under small noise (Yeh et al. 2019).
    - randomisation: ``METHOD_randomisation_correlation`` in [-1, 1], rank correlation with the map of the same network
      with shuffled weights (Adebayo et al. 2018).

    Intervals are 95 %, over images. An Attribution is invalid, with the cause in its note, where the method raised or
    has no meaning for the stage, where a map is not finite or zero everywhere, where the residual is above the
    method's ``max_residual`` (1 % for integrated gradients, else 10 %), and where the mean |rank correlation| is above
    0.9. ``chunk`` caps the rows of one forward pass, which also shrink by themselves where memory is short. Returns
    nothing where the stage carries no images.
    """

    name = "attribution"

    def __init__(
        self,
        methods: Sequence[str | Method] = DEFAULT_METHODS,
        checks: Sequence[str] = CHECKS,
        chunk: int | None = None,
    ) -> None:
        self.methods = methods_of(methods)
        if isinstance(checks, str) or not isinstance(checks, Sequence):
            raise ProbeError(f"attribution: checks is {checks!r}; expected a list of some of {', '.join(CHECKS)}")
        for check in checks:
            if check not in CHECKS:
                raise ProbeError(f"attribution: unknown check {check!r}; {nearest(str(check), list(CHECKS))}")
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
            raise ProbeError(f"attribution: chunk is {chunk!r}; expected a whole number from 1, or None")
        self.checks, self.chunk = frozenset(checks), chunk

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the maps and their quality; the chunk does not."""
        methods = [{"class": type(method).__qualname__, **vars(method)} for method in self.methods]
        return {"methods": methods, "checks": sorted(self.checks)}

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
        results: list[Attribution | Measurement] = []
        for method in self.methods:
            results += self._explain(subject, method, about)
        return results

    def _explain(self, subject: Subject, method: Method, about: str) -> list[Attribution | Measurement]:
        """The maps of one method and their quality."""
        maps = torch.zeros(len(subject.images), *subject.images.shape[-2:])
        rows: list[Measurement] = []
        found: Explanation | None = None
        try:
            found = subject.explain(method)
            maps = found.maps
            cause = _why_unusable(maps)
            if not cause:
                rows, cause = self._check(subject, method, found)
        except NotApplicable as reason:
            cause = str(reason)
        except Exception as error:
            cause = f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
        kept = torch.nan_to_num(maps, posinf=0.0, neginf=0.0).numpy()
        note = "; ".join(part for part in (cause, about, _how(method, found)) if part)
        return [Attribution(method.name, kept, subject.targets.cpu().numpy(), not cause, note), *rows]

    def _check(self, subject: Subject, method: Method, found: Explanation) -> tuple[list[Measurement], str]:
        """Rows of the checks, and why the maps must not be read ('' where they may)."""
        rows: list[Measurement] = []
        causes: list[str] = []
        n = len(found.maps)

        def file(what: str, values: np.ndarray, note: str) -> float:
            mean, low, high = mean_interval(values)
            rows.append(Measurement(f"{method.name}_{what}", mean, low=low, high=high, n=n, note=note))
            return mean

        off = subject.residuals(found)
        if off is not None and method.max_residual is not None:
            together, residuals = off
            worst = float(residuals.max())
            if not together <= method.max_residual:
                causes.append(
                    f"completeness residual {together:.2g} of the logit difference (worst image {worst:.2g}) "
                    f"is above {method.max_residual:g}"
                )
            if "completeness" in self.checks:
                above = int((residuals > method.max_residual).sum())
                note = f"{above} of {n} images above {method.max_residual:g}" if above else ""
                rows.append(Measurement(f"{method.name}_completeness_residual", together, n=n, note=note))
                rows.append(Measurement(f"{method.name}_completeness_residual_max", worst, n=n, note=note))
        if "insertion_deletion" in self.checks:
            note = f"against {2 * RANDOM_ORDERS} random orders, {CURVE_STEPS} steps, on the zero image"
            inserted, deleted = subject.gains(found)
            file("insertion_gain", inserted, note)
            file("deletion_gain", deleted, note)
        quick = method.quick()
        plain = found
        if quick is not method and {"sensitivity", "randomisation"} & self.checks:
            plain = subject.explain(quick)
        hurried = "" if quick is method else "; with fewer steps"
        if "sensitivity" in self.checks:
            note = f"{NOISE_DRAWS} draws of noise within {NOISE_RADIUS}{hurried}"
            file("max_sensitivity", subject.sensitivities(quick, plain), note)
        if "randomisation" in self.checks:
            correlations = subject.correlations(quick, plain)
            if correlations is not None:
                file("randomisation_correlation", correlations, f"all weights shuffled{hurried}")
                mean = float(np.abs(correlations).mean())
                if mean > MAX_CORRELATION:
                    causes.append(
                        f"does not depend on the weights: rank correlation {mean:.3f} with the maps of shuffled "
                        f"weights is above {MAX_CORRELATION}"
                    )
        return rows, "; ".join(causes)


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


def _how(method: Method, found: Explanation | None) -> str:
    """Steps and baseline, for the note."""
    parts = []
    if found is not None and found.steps is not None:
        fewest, most = int(found.steps.min()), int(found.steps.max())
        parts.append(f"{fewest} steps" if fewest == most else f"{fewest} to {most} steps")
    if method.baseline:
        parts.append("baseline: the mean colour")
    return "; ".join(parts)


def _why_unusable(maps: Tensor) -> str:
    if not torch.isfinite(maps).all():
        return "the map holds NaN or infinity"
    zero = int((maps.flatten(1) == 0).all(1).sum())
    return f"the map is zero everywhere for {zero} of {len(maps)} images" if zero else ""
