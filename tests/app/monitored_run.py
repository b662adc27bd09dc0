"""A run as lw.Monitor leaves it, made of generated numbers: no training, no torch."""

import numpy as np

from lwexplain.intervals import wilson_interval
from lwexplain.run import Run
from lwexplain.run.directory import MONITORED

STAGES = ["stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1"]


def make_monitored_run(path, looks=8, stages=STAGES):
    """A run with a look at each of ``looks`` epochs."""
    run = Run.create(
        path,
        "monitor:\n  images: 1000\n",
        status=MONITORED,
        model="ResNet",
        stages=list(stages),
        data={"name": "images of a val loader", "classes": list("0123456789"), "sizes": {"val": 5000}},
        monitor={"images": 1000, "classes": 10, "every": 1, "chance": 0.1, "images_a_look": 800, "overhead": 0.031},
    )
    add_looks(run, range(1, looks + 1))
    return run


def add_looks(run, epochs):
    """Looks at some more epochs: deeper stages learn faster, and settle."""
    rng = np.random.default_rng(0)
    for epoch in epochs:
        lines = []
        for depth, stage in enumerate(run.manifest["stages"], start=1):
            ceiling = 0.93 - 0.55 * np.exp(-depth / 2.2)
            linear = round(float(np.clip(ceiling * (1 - np.exp(-epoch / 2)) + rng.normal(0, 0.006), 0, 1)), 4)
            line = {"event": "look", "stage": stage, "depth": depth, "epoch": epoch, "n": 400, "images": 800}
            for metric, value in (
                ("linear_probe_accuracy", linear),
                ("ncm_accuracy", 0.9 * linear),
                ("separability_index", 0.85 * linear),
            ):
                low, high = wilson_interval(value, 400)
                line |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
            line["effective_rank"] = 6 + 4 * depth * np.exp(-epoch / 9)
            if epoch > 1:
                line["drift"] = float(0.05 * depth * np.exp(-epoch / 3))
                line["cka_linear"] = 1 - line["drift"]
            lines.append(line)
        run.append_events(lines)
        run.update(progress=f"epoch {epoch}")
