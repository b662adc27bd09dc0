"""The run directory that grows while a monitor looks: made, gone on with, and written to one look at a time."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lwexplain.errors import RunError
from lwexplain.monitoring.look import Look, StageLook
from lwexplain.monitoring.sample import Sample
from lwexplain.probes.base import Measurement
from lwexplain.results.looks import LOOK
from lwexplain.run import Run
from lwexplain.run.directory import MONITORED
from lwexplain.run.fields import LOOK_INTERVALS

PURPOSE = "lw.Monitor"


class LiveRun:
    """An ordinary run directory with the status ``monitored``: looks are lines of its ``events.jsonl``.

    Lines are only ever added, all of a look at once; a process that is killed leaves a run that can be read. The code
    and the weights of the network are not in it.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    @classmethod
    def make(
        cls, out: Path, model: str, stages: Sequence[str], sample: Sample, settings: Mapping[str, Any]
    ) -> "LiveRun":
        """A new run; raises RunError where something else lies in the folder."""
        lines = [f"  {name}: {value}" for name, value in settings.items()]
        config = "\n".join(["# made by lw.Monitor, which looks at a network that another program trains", "monitor:"])
        run = Run.create(
            out,
            "\n".join([config, *lines]) + "\n",
            status=MONITORED,
            model=model,
            stages=list(stages),
            data=_data_of(sample),
            monitor={**settings, "chance": sample.chance},
        )
        return cls(run)

    @classmethod
    def go_on(cls, out: Path, stages: Sequence[str], sample: Sample) -> "LiveRun":
        """The run in the folder, to be written on; raises RunError where it is none, or one of something else."""
        run = Run.open(out)
        if run.status != MONITORED:
            raise RunError(f"{out} is a run with the status {run.status!r}, not one of lw.Monitor; choose another out=")
        if run.manifest.get("stages") != list(stages):
            raise RunError(f"{out} holds looks at other stages ({run.manifest.get('stages')}); choose another out=")
        if run.manifest.get("data", {}).get("fingerprint") != sample.fingerprint:
            raise RunError(
                f"{out} holds looks at other images than val_loader gives now, so they would not compare; give the "
                "same images without random augmentation and the same images=, or choose another out="
            )
        with run.lock(PURPOSE):
            _cut_off_a_line_begun(run)
        return cls(run)

    def write(self, epoch: int, look: Look, *, fitted: int, images: int, seconds: float, overhead: float) -> None:
        """Add a look: a line for each stage. ``fitted`` of the ``images`` were fitted on."""
        about = {"event": LOOK, "epoch": epoch, "n": images - fitted, "images": images}
        lines = [{**about, **_fields_of(stage), "seconds": round(seconds, 4)} for stage in look.stages]
        monitor = {**self.run.manifest["monitor"], "images_a_look": images}
        if math.isfinite(overhead):
            monitor["overhead"] = round(overhead, 5)
        with self.run.lock(PURPOSE):
            self.run.append_events(lines)
            self.run.update(progress=f"epoch {epoch}", monitor=monitor)

    def end(self) -> None:
        """Say in the manifest that no more looks will come."""
        progress = self.run.manifest.get("progress")
        with self.run.lock(PURPOSE):
            self.run.update(progress=f"ended after {progress.removeprefix('ended after ')}" if progress else "ended")


def _fields_of(stage: StageLook) -> dict[str, Any]:
    fields: dict[str, Any] = {"stage": stage.stage, "depth": stage.depth}
    for number in stage.numbers:
        fields |= _fields_of_number(number)
    return fields | ({"reason": stage.reason} if stage.reason else {})


def _fields_of_number(number: Measurement) -> dict[str, float]:
    """The value and, where there is one, its interval; nothing where the value is undefined."""
    if not math.isfinite(number.value):
        return {}
    fields = {number.metric: round(number.value, 6)}
    if number.metric in LOOK_INTERVALS and number.low is not None and number.high is not None:
        fields |= {f"{number.metric}_low": round(number.low, 6), f"{number.metric}_high": round(number.high, 6)}
    return fields


def _data_of(sample: Sample) -> dict[str, Any]:
    return {
        "name": "images of a val loader",
        "classes": [str(label) for label in sample.classes],
        "sizes": {"val": sample.seen},
        "fingerprint": sample.fingerprint,
    }


def _cut_off_a_line_begun(run: Run) -> None:
    """Take away what a process wrote of a line as it was killed, so that the next line stands alone."""
    name = "events.jsonl"
    with run.files.open(name) as file:
        content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        run.files.cut(name, whole)
