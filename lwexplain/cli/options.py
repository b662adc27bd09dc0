"""Arguments and options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory made by lwexplain train.")]
Tolerance = Annotated[float, typer.Option(help="Accuracy one is willing to lose, in [0, 1): 0.005 is half a point.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Objective = Annotated[
    str, typer.Option(help="What is best among what is good enough: params, flops, latency, memory; or accuracy.")
]
MaxParams = Annotated[float | None, typer.Option(help="Most parameters, e.g. 1e6.")]
MaxFlops = Annotated[float | None, typer.Option(help="Most FLOPs an image.")]
MaxLatency = Annotated[float | None, typer.Option(help="Longest median latency of one image, in milliseconds.")]
MaxMemory = Annotated[str | None, typer.Option(help="Most memory for one image, e.g. 4MB.")]


class Reproducible(StrEnum):
    """What ``lwexplain reproduce`` can reproduce."""

    thesis = "thesis"


def budgets_of(
    params: float | None, flops: float | None, latency: float | None, memory: str | None
) -> dict[str, float]:
    """Budgets in the units of the Python interface: parameters, FLOPs, seconds, bytes."""
    from lwexplain.memory import parse_size

    asked = {
        "params": params,
        "flops": flops,
        "latency": None if latency is None else latency / 1000,
        "memory": None if memory is None else float(parse_size(memory)),
    }
    return {name: value for name, value in asked.items() if value is not None}
