"""Heads for the shorter network: a stage's own, or a fresh linear one fitted on train and chosen on val."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from lwexplain.capture.extract import Captured
from lwexplain.errors import ExportError
from lwexplain.exporting.shorter_network import StageHead
from lwexplain.exporting.source import ExportSource
from lwexplain.memory import working_bytes
from lwexplain.models.heads.linear import LinearHead
from lwexplain.models.site import Site
from lwexplain.probes.base import StageData
from lwexplain.probes.linear.probe import GRID, LinearProbe, fit_linear_probe, fit_linear_probes
from lwexplain.processes import World
from lwexplain.run.scratch import scratch_folder

HEAD_KINDS = ("auto", "local", "fresh")


def heads_after(source: ExportSource, depths: Sequence[int], kind: str) -> list[StageHead]:
    """A head after each of ``depths``: the stage's own (``local``), a ``fresh`` one, or, with ``auto``, the stage's own
    where there is one.

    Raises ExportError for another kind, and where a local head is asked for and there is none.
    """
    if kind not in HEAD_KINDS:
        raise ExportError(f"head is {kind!r}; choose one of {', '.join(HEAD_KINDS)}")
    model = source.model
    missing = [depth for depth in depths if depth not in model.head_depths]
    if kind == "local" and missing:
        raise ExportError(
            f"stage {model.names[missing[0] - 1]!r} was trained without a head of its own; "
            "use head=fresh, which fits one, or head=auto"
        )
    fitted = fresh_heads(source, depths if kind == "fresh" else missing)
    return [fitted[depth] if depth in fitted else StageHead(depth, model.head(depth), "local") for depth in depths]


def fresh_heads(source: ExportSource, depths: Sequence[int]) -> dict[int, StageHead]:
    """Average pool (of tokens: what the network's own head reads) and one linear layer after each of ``depths``, on
    the features as they are.

    The linear layer is the linear probe (multinomial logistic regression on standardised features of all train images,
    its C the best on val), with the standardisation folded into it. Test takes no part.
    """
    if not depths:
        return {}
    model, device = source.model, source.device
    names = [model.names[depth - 1] for depth in depths]
    with scratch_folder("features") as folder:
        captured = source.features(names, folder)
        stages = [_stage(name, depth, captured, source) for name, depth in zip(names, depths, strict=True)]
        fit_linear_probes(stages, GRID, World())
        probes = [fit_linear_probe(stage) for stage in stages]
    sites, dtypes = model.sites(), model.feature_dtypes()
    return {
        depth: StageHead(depth, as_head(probe, sites[depth - 1]).to(device, dtypes[depth - 1]), "fresh", probe.note)
        for depth, probe in zip(depths, probes, strict=True)
    }


def as_head(probe: LinearProbe, site: Site) -> nn.Module:
    """A fitted linear probe as a head on the unpooled features of its stage."""
    head = LinearHead(site)
    with torch.no_grad():
        head.classifier.weight.copy_(probe.weight)
        head.classifier.bias.copy_(probe.bias)
    return head.eval().requires_grad_(False)


def _stage(name: str, depth: int, captured: Mapping[str, Captured], source: ExportSource) -> StageData:
    return StageData(
        name=name,
        depth=depth,
        features={split: part.features[name] for split, part in captured.items()},
        labels={split: part.labels for split, part in captured.items()},
        classes=source.classes,
        seed=source.seed,
        device=str(source.device),
        memory_bytes=working_bytes(None),
    )
