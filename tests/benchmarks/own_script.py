"""What a person writes today to look into every stage of a network: torchvision, scikit-learn, umap-learn and Captum.

    python tests/benchmarks/own_script.py                   # at full size, some minutes

A ResNet-18 of full width, 5,000 training and 2,000 test images of Fashion-MNIST, and of each of its 9 stages a linear
probe, nearest neighbours, three separability indices, a UMAP layout and integrated gradients. All stages are captured
in one pass, and each library is used as its documentation says, with its defaults; nothing in here comes from lwexplain
but the images and the weights, which analysis_runs.py writes as plain files. The clock is stopped before the last
lines, which only serve the comparison with lwexplain.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import umap
from captum.attr import IntegratedGradients
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

STAGES = {"relu": "stem"} | {
    f"layer{group}.{block}": f"layer{group}.{block}" for group in (1, 2, 3, 4) for block in (0, 1)
}
EXPLAINED_IMAGES = 12

seconds: dict[str, float] = defaultdict(float)


@contextmanager
def timed(part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] += time.perf_counter() - started


def load_network(work: Path) -> nn.Module:
    network = resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(1, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    network.load_state_dict(torch.load(work / "weights.pt"))
    return network.eval()


def load_images(work: Path) -> dict[str, tuple[Tensor, np.ndarray]]:
    found = np.load(work / "images.npz")
    mean, std = float(found["mean"][0]), float(found["std"][0])
    return {
        split: ((torch.from_numpy(found[f"{split}_images"]) / 255 - mean) / std, found[f"{split}_labels"])
        for split in ("train", "test")
    }


def features_of(network: nn.Module, images: Tensor) -> dict[str, np.ndarray]:
    """Features (N, D) of every stage, averaged over the places of the image."""
    extractor = create_feature_extractor(network, STAGES)
    parts: dict[str, list[Tensor]] = defaultdict(list)
    with torch.inference_mode():
        for batch in images.split(256):
            for stage, output in extractor(batch).items():
                parts[stage].append(output.mean((2, 3)))
    return {stage: torch.cat(batches).numpy() for stage, batches in parts.items()}


def logits_at(network: nn.Module, node: str, probe: Pipeline) -> Callable[[Tensor], Tensor]:
    """Images -> logits of the linear probe of a stage, differentiable."""
    scaler, classifier = probe[0], probe[-1]
    weight = torch.tensor(classifier.coef_ / scaler.scale_, dtype=torch.float32)
    bias = torch.tensor(classifier.intercept_, dtype=torch.float32) - weight @ torch.tensor(scaler.mean_).float()
    extractor = create_feature_extractor(network, {node: "output"})
    return lambda images: F.linear(extractor(images)["output"].mean((2, 3)), weight, bias)


def explain(logits: Callable[[Tensor], Tensor], images: Tensor, steps: int) -> Tensor:
    with torch.no_grad():
        target = logits(images).argmax(1)
    method = IntegratedGradients(logits)
    return method.attribute(images, target=target, n_steps=steps, internal_batch_size=100)


def look_into(network: nn.Module, images: dict[str, tuple[Tensor, np.ndarray]], steps: int) -> dict[str, Any]:
    started = time.perf_counter()
    with timed("extraction"):
        train = features_of(network, images["train"][0])
        test = features_of(network, images["test"][0])
    train_labels, labels = images["train"][1], images["test"][1]

    layouts = {}
    rows: dict[str, dict[str, float]] = {}
    for node, stage in STAGES.items():
        x = test[stage]
        row = rows[stage] = {}
        with timed("linear probe"):
            probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            probe.fit(train[stage], train_labels)
            row["linear_probe_accuracy"] = probe.score(x, labels)
        with timed("nearest neighbours"):
            neighbours = KNeighborsClassifier().fit(train[stage], train_labels)
            row["knn_accuracy"] = neighbours.score(x, labels)
        with timed("indices"):
            row["silhouette"] = silhouette_score(x, labels)
            row["davies_bouldin"] = davies_bouldin_score(x, labels)
            row["calinski_harabasz"] = calinski_harabasz_score(x, labels)
        with timed("umap"):
            layouts[stage] = umap.UMAP(random_state=0).fit_transform(x)
        with timed("attribution"):
            explain(logits_at(network, node, probe), images["test"][0][:EXPLAINED_IMAGES], steps)
        print(stage, {name: round(value, 1) for name, value in seconds.items()}, flush=True)
    total = time.perf_counter() - started

    for stage, row in rows.items():
        row["trustworthiness"] = trustworthiness(test[stage], layouts[stage], n_neighbors=15)
    stages = {stage: {name: float(value) for name, value in row.items()} for stage, row in rows.items()}
    return {"seconds": total, "part_seconds": dict(seconds), "stages": stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/analysis_speed"))
    parser.add_argument("--ig-steps", type=int, default=50, help="steps of integrated gradients")
    parser.add_argument("--out", type=Path, help="file for the figures")
    options = parser.parse_args()
    if not (options.work / "weights.pt").exists():
        prepare = [sys.executable, str(Path(__file__).with_name("analysis_speed.py")), "prepare"]
        subprocess.run([*prepare, "--work", str(options.work)], check=True)
    started = time.perf_counter()
    network, images = load_network(options.work), load_images(options.work)
    reading = time.perf_counter() - started
    found = look_into(network, images, options.ig_steps)
    found["seconds"] += reading
    found["script_seconds"] = time.perf_counter() - started
    print(f"{found['seconds']:.1f} s without imports")
    if options.out:
        options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
