"""lwexplain: layer-wise training, layer analysis and depth advice for image classifiers.

The names below are the public interface. They load on first use: ``import lwexplain`` itself imports neither
torch nor numba.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lwexplain.version import VERSION

__version__ = VERSION

_HOMES = {
    "train": "lwexplain.api",
    "analyze": "lwexplain.api",
    "analyze_model": "lwexplain.api",
    "adopt": "lwexplain.api",
    "recommend": "lwexplain.api",
    "export": "lwexplain.api",
    "report": "lwexplain.api",
    "compare": "lwexplain.api",
    "similarity": "lwexplain.api",
    "attribute": "lwexplain.probes.attribution.loader",
    "find_stages": "lwexplain.models.stage_table",
    "Monitor": "lwexplain.monitoring.monitor",
    "Config": "lwexplain.config",
    "load_config": "lwexplain.config",
    "Run": "lwexplain.run",
    "LwexplainError": "lwexplain.errors",
    "Measurement": "lwexplain.probes.base",
    "Metric": "lwexplain.metrics",
    "StageData": "lwexplain.probes.base",
    "Probe": "lwexplain.probes.base",
    "ProbeDefaults": "lwexplain.probes.base",
    "Recommendation": "lwexplain.advice.recommend",
    "StagedModel": "lwexplain.models.staged",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from lwexplain.advice.recommend import Recommendation as Recommendation
    from lwexplain.api import adopt as adopt
    from lwexplain.api import analyze as analyze
    from lwexplain.api import analyze_model as analyze_model
    from lwexplain.api import compare as compare
    from lwexplain.api import export as export
    from lwexplain.api import recommend as recommend
    from lwexplain.api import report as report
    from lwexplain.api import similarity as similarity
    from lwexplain.api import train as train
    from lwexplain.config import Config as Config
    from lwexplain.config import load_config as load_config
    from lwexplain.errors import LwexplainError as LwexplainError
    from lwexplain.metrics import Metric as Metric
    from lwexplain.models.stage_table import find_stages as find_stages
    from lwexplain.models.staged import StagedModel as StagedModel
    from lwexplain.monitoring.monitor import Monitor as Monitor
    from lwexplain.probes.attribution.loader import attribute as attribute
    from lwexplain.probes.base import Measurement as Measurement
    from lwexplain.probes.base import Probe as Probe
    from lwexplain.probes.base import ProbeDefaults as ProbeDefaults
    from lwexplain.probes.base import StageData as StageData
    from lwexplain.run import Run as Run


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lwexplain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
