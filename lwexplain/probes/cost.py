"""The cost of every depth as measurements: parameters, FLOPs, memory and measured latency."""

from dataclasses import fields

from lwexplain.errors import ModelError
from lwexplain.models.cost import Cost, CutAtStages, measure_costs, network_of_depth
from lwexplain.models.latency import Latency
from lwexplain.models.modules import undisturbed
from lwexplain.probes.base import Measurement, ProbeDefaults, StageData
from lwexplain.probes.metrics import cost as declared


class CostProbe(ProbeDefaults):
    """Cost of every depth of a network as measurements, counted in runs of the network cut there; it is left as it was.

    Given the error that kept a model from being cut instead of the model, it raises that error when asked, so that
    the missing costs are reported like any failed probe.
    """

    name = "cost"
    order = 10
    needs_quiet = True

    def __init__(self, model: CutAtStages | ModelError, stages: list[str]) -> None:
        self.model = model
        self.stages = stages
        self.metrics = declared.metrics()
        device = None if isinstance(model, ModelError) else str(model.device)
        names = [field.name for kind in (Cost, Latency) for field in fields(kind)]
        self.settings = {"stages": stages, "device": device, "costs": names}  # besides the weights

    def measure_all(self, stages: list[StageData]) -> dict[str, list[Measurement]]:
        """Parameters, FLOPs, memory and latency by stage name, on the device where the model lies."""
        if isinstance(self.model, ModelError):
            raise self.model
        model, device = self.model, self.model.device
        sites = zip(model.sites()[: len(self.stages)], model.feature_dtypes(), strict=False)
        with undisturbed():  # heads are made from the global random state
            networks = [network_of_depth(model, site, dtype) for site, dtype in sites]
        costs = measure_costs(networks, model.input_shape)
        before = [None, *costs]
        return {
            name: cost_measurements(cost, str(device), shallower)
            for name, cost, shallower in zip(self.stages, costs, before, strict=False)
        }


def cost_measurements(cost: Cost, device: str, shallower: Cost | None = None) -> list[Measurement]:
    """A cost as rows of the long table; they belong to no split. ``shallower`` is the cost one stage before."""
    timed = f"batch 1 on {device}{', one thread' if device == 'cpu' else ''}; median of the quicker half of the rounds"
    timed += "; low and high are the 5th and 95th percentile"
    if shallower is not None and cost.latency.median < shallower.latency.median:
        alike = cost.latency.is_alike(shallower.latency)
        timed += (
            "; no quicker than one stage before as far as the clock can tell"
            if alike
            else ("; quicker than one stage before, whose head works on larger features or has more to do")
        )
    return [
        Measurement("parameters", cost.parameters, split="none"),
        Measurement("flops", cost.flops, split="none", note="per image, head included"),
        Measurement(
            "memory_bytes",
            cost.memory_bytes,
            split="none",
            note="of one image: weights, buffers and the largest sum of live activations",
        ),
        Measurement(
            "latency_seconds",
            cost.latency.median,
            split="none",
            low=cost.latency.low,
            high=cost.latency.high,
            n=cost.latency.runs,
            note=timed,
        ),
    ]
