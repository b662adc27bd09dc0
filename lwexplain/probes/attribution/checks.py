"""Whether the maps of a method may be read: all of them together, and each image by itself."""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from lwexplain.probes.attribution.base import Explanation, Method
from lwexplain.probes.attribution.curves import CURVE_STEPS, RANDOM_ORDERS
from lwexplain.probes.attribution.quality import NOISE_DRAWS, NOISE_RADIUS, Subject, incomplete, mean_interval
from lwexplain.probes.attribution.randomisation import SHUFFLES
from lwexplain.probes.base import Measurement

CHECKS = ("completeness", "insertion_deletion", "sensitivity", "randomisation")
MOST_INCOMPLETE = 0.5
"""Share of the images whose maps may be incomplete before none of the maps is read."""


@dataclass
class Checked:
    """``rows`` of figures; ``causes`` why no map may be read; ``image_causes[i]`` why that of image i may not;
    ``remarks`` on what was not checked."""

    rows: list[Measurement] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    image_causes: list[list[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def image_notes(self) -> list[str]:
        """Why the map of each image may not be read; empty where it may."""
        return ["; ".join(causes) for causes in self.image_causes]


def check(subject: Subject, method: Method, found: Explanation, checks: Collection[str]) -> Checked:
    """Judge the maps of a method by its completeness and by ``checks``; what is left out is remarked."""
    checked = Checked(image_causes=[[] for _ in found.maps])
    _completeness(checked, subject, method, found, "completeness" in checks)
    if "insertion_deletion" in checks:
        _chance(checked, subject, method, found)
    else:
        checked.remarks.append("not compared with chance")
    quick = method.quick()
    hurried = "" if quick is method else "; with fewer steps"
    plain = found
    if quick is not method and {"sensitivity", "randomisation"} & set(checks):
        plain = subject.explain(quick)
    if "sensitivity" in checks:
        note = f"{NOISE_DRAWS} draws of noise within {NOISE_RADIUS}{hurried}"
        _file(checked, f"{method.name}_max_sensitivity", subject.sensitivities(quick, plain), note)
    if "randomisation" in checks:
        _randomisation(checked, subject, quick, plain, hurried)
    else:
        checked.remarks.append("not compared with shuffled weights")
    return checked


def _file(
    checked: Checked, metric: str, values: np.ndarray, note: str = ""
) -> tuple[float, float | None, float | None]:
    """File the mean over images with its interval, and return them."""
    mean, low, high = mean_interval(values)
    checked.rows.append(Measurement(metric, mean, low=low, high=high, n=len(values), note=note))
    return mean, low, high


def _completeness(checked: Checked, subject: Subject, method: Method, found: Explanation, file_rows: bool) -> None:
    """Sums of the maps against the logit differences: pooled, at worst, and image by image."""
    off, bound = subject.residuals(found), method.max_residual
    if off is None or bound is None:
        return
    together, residuals = off
    n, above = len(residuals), residuals > bound
    worst, share = float(residuals.max()), float(above.mean())
    for causes, residual, too_large in zip(checked.image_causes, residuals, above, strict=True):
        if too_large:
            causes.append(incomplete(residual, bound))
    if not together <= bound:
        checked.causes.append(
            f"completeness residual {together:.2g} of the logit difference (worst image {worst:.2g}) is above {bound:g}"
        )
    elif share > MOST_INCOMPLETE:
        checked.causes.append(f"completeness residual above {bound:g} for {int(above.sum())} of {n} images")
    if file_rows:
        note = f"{int(above.sum())} of {n} images above {bound:g}" if above.any() else ""
        name = f"{method.name}_completeness_residual"
        checked.rows += [
            Measurement(name, together, n=n, note=note),
            Measurement(f"{name}_max", worst, n=n, note=note),
            Measurement(f"{method.name}_incomplete_share", share, n=n, note=f"share of images above {bound:g}"),
        ]


def _chance(checked: Checked, subject: Subject, method: Method, found: Explanation) -> None:
    """Whether the maps order the pixels better than random orders do, by insertion or by deletion."""
    note = f"against {2 * RANDOM_ORDERS} random orders, {CURVE_STEPS} steps, on zero input"
    inserted, deleted = subject.gains(found)
    gains = {
        "insertion": _file(checked, f"{method.name}_insertion_gain", inserted, note),
        "deletion": _file(checked, f"{method.name}_deletion_gain", deleted, note),
    }
    for causes, insertion, deletion in zip(checked.image_causes, inserted, deleted, strict=True):
        if max(insertion, deletion) <= 0:
            causes.append(f"no better than chance: insertion gain {insertion:.2g}, deletion gain {deletion:.2g}")
    if any(low is not None and low > 0 for _, low, _ in gains.values()):
        return
    if len(inserted) < 2:
        checked.causes.append("one image alone does not tell a map from chance; give at least two")
        return
    figures = " and ".join(
        f"{name} gain {mean:.2g} ({low:.2g} to {high:.2g})" for name, (mean, low, high) in gains.items()
    )
    checked.causes.append(f"no better than chance: {figures} over random orders of the pixels")


def _randomisation(checked: Checked, subject: Subject, quick: Method, plain: Explanation, hurried: str) -> None:
    """Whether the maps show the network or only the image."""
    found = subject.randomisation(quick, plain)
    _file(checked, f"{quick.name}_edge_correlation", found.edges, "with the Sobel edges of the image")
    if found.shown is not None and found.strength is not None and found.edges_shuffled is not None:
        empty = f"; {found.empty} maps of shuffled weights are constant" if found.empty else ""
        note = f"mean of {SHUFFLES} networks with all weights shuffled{hurried}{empty}"
        _file(checked, f"{quick.name}_randomisation_correlation", found.shown, note)
        _file(checked, f"{quick.name}_randomisation_strength_correlation", found.strength, note)
        _file(checked, f"{quick.name}_edge_correlation_randomised", found.edges_shuffled, note)
    else:
        checked.remarks.append("no weights to shuffle, so that only likeness to edges was checked")
    if found.cause:
        checked.causes.append(found.cause)
