"""A network is cut by the first way that works and gives what hooks see at every stage."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lwexplain.errors import ModelError
from lwexplain.models.cutting.containers import cut_containers
from lwexplain.models.cutting.graph import cut_by_graph, cut_by_tracing
from lwexplain.models.cutting.hook import cut_by_hook, whole_network
from lwexplain.models.cutting.network import CutNetwork
from lwexplain.models.cutting.observation import Observation, is_same, observe
from lwexplain.models.cutting.own_api import cut_by_own_api
from lwexplain.models.cutting.parts import Cut
from lwexplain.models.modules import in_evaluation, own_names, unwrap
from lwexplain.models.staged import StagedModel

WAYS: dict[str, Callable[[Observation], Cut]] = {
    "own API": cut_by_own_api,
    "containers": cut_containers,
    "graph": cut_by_graph,
    "hook": cut_by_hook,
}


def cut_network(model: nn.Module, stages: Sequence[str], images: Tensor, num_classes: int) -> CutNetwork:
    """Cut ``model`` after each of ``stages``, the names of modules in the order in which they run.

    ``images`` (N, C, H, W) are a few real ones, as the network takes them. ``PATH#2`` names the second call of the
    module at PATH. The first of the ``WAYS`` counts that works and gives, in evaluation mode and for several sizes of
    the batch, what forward hooks see in the untouched network; the last one always does. What comes back shares the
    model's tensors, not its modules; the model is left as it was.

    Raises ModelError for stages that cannot be cut at: unknown ones, ones that do not run or run several times, ones
    named in another order, outputs that are not one sample a row, and images that the model cannot take.
    """
    model = unwrap(model)
    with in_evaluation(model):
        seen = observe(model, own_names(model, stages), images, num_classes)
        way, cut, refusals = _first_that_serves(seen)
        whole = None if seen.no_logits else whole_network(seen)
        staged, not_staged = (cut.staged, "") if cut.staged is not None else _staged(seen)
        if staged is not None:
            _drop_unequal_head(staged, seen)
        return CutNetwork(seen, way, refusals, cut.prefixes, whole, staged, not_staged)


def _first_that_serves(seen: Observation) -> tuple[str, Cut, dict[str, str]]:
    refusals: dict[str, str] = {}
    for way, cut_so in WAYS.items():
        try:
            return way, cut_so(seen), refusals
        except ModelError as error:
            refusals[way] = " ".join(str(error).split())
    reasons = "; ".join(f"{way}: {reason}" for way, reason in refusals.items())
    raise ModelError(f"{type(seen.model).__name__} cannot be cut at these stages ({reasons})")


def _staged(seen: Observation) -> tuple[StagedModel | None, str]:
    """The network as a row of stages, or why tracing makes none."""
    try:
        return cut_by_tracing(seen).staged, ""
    except ModelError as error:
        return None, str(error)


def _drop_unequal_head(staged: StagedModel, seen: Observation) -> None:
    """Take away what follows the last stage where it does not give the network's logits."""
    if staged.depth not in staged.head_depths:
        return
    head = staged.head(staged.depth)
    for batch in seen.batches:
        try:
            with torch.no_grad():
                logits = head(batch.outputs[-1].clone())
        except Exception:  # somebody's code raises anything
            logits = None
        if batch.logits is None or not is_same(logits, batch.logits):
            del staged.heads[str(staged.depth)]
            staged.own_tail = False
            return
