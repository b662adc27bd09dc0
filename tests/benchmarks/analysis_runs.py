"""The trained networks that the benchmarks of the analysis look into, and how one of these is analyzed afresh."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

import lwexplain as lw
from lwexplain.config import Config, load_config
from lwexplain.data.dataset import DataSplits, ImageArrays
from lwexplain.data.load import load_data
from lwexplain.data.splits import stratified_subset
from lwexplain.run import Run
from lwexplain.training.build import build_trainable
from lwexplain.training.checkpoint import load_final_weights

HERE = Path(__file__).parent
RECIPE = HERE.parents[1] / "configs" / "fashion_mnist_bp.yaml"


def trained_run(folder: Path, overrides: dict[str, Any]) -> Run:
    """The run in ``folder``, trained there as ``RECIPE`` with ``overrides`` says unless that has been done before."""
    settings = {"training.schedule.warmup_epochs": 0, "training.checkpoint_seconds": 3600, **overrides}
    return lw.train(RECIPE, settings, run_dir=folder, resume=folder.exists())


def narrow_run(large_split: str, work: Path | None, *, tiny: bool) -> Run:
    """A ResNet-18 of width 16 on all of Fashion-MNIST: 50,000 images in ``large_split`` (train or val), 10,000 in the
    other one and in test. Tiny: width 8 and 2,000 training images."""
    folder = work or Path(f"runs/analysis_{large_split}{'_tiny' if tiny else ''}")
    small = {"model.width": 8, "data.train_size": 2_000} if tiny else {"model.width": 16}
    held_out = {"train": 1 / 6, "val": 5 / 6}[large_split]
    return trained_run(folder / "run", {"data.val_fraction": held_out, "training.epochs": 1, **small})


# ---------------------------------------------------------------- one network for two scripts


def prepare(work: Path, train: int, val: int, test: int, epochs: int) -> Run:
    """A ResNet-18 of full width trained on ``train`` images of Fashion-MNIST, for lwexplain and without it.

    Returns the run. Beside it lie ``images.npz`` (uint8 images and labels of train and val together as ``train`` and of
    ``test``, mean and standard deviation of the pixels in [0, 1]) and ``weights.pt``, the same weights under the names
    of torchvision's ResNet-18.
    """
    source = work / "idx"
    if not (work / "run").exists():
        _write_part_of_fashion_mnist(source, train + val, test)
    overrides = {
        "data.root": str(source.resolve()),
        "data.val_fraction": val / (train + val),
        "model.width": 64,
        "training.epochs": epochs,
        "training.optimizer.lr": 0.02,  # few steps: the rate of the recipe, made for many, would leave it near chance
    }
    run = trained_run(work / "run", overrides)
    config = load_config(run.config())
    data = load_data(config.data, config.seed)
    if [len(data.train), len(data.val), len(data.test or ())] != [train, val, test]:
        raise SystemExit(f"{work} was made for other numbers of images; name another folder with --work")
    _write_arrays(work / "images.npz", data)
    torch.save(_as_torchvision(run, config, data), work / "weights.pt")
    return run


def _write_part_of_fashion_mnist(folder: Path, train: int, test: int) -> None:
    """A stratified part of the training and of the test images, in the files that the whole set comes in."""
    config = load_config(RECIPE, {"data.train_size": train, "data.val_fraction": 0.001})
    data = load_data(config.data, config.seed)
    assert isinstance(data.train, ImageArrays)
    assert isinstance(data.test, ImageArrays)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part, size in (("train", data.train, train), ("t10k", data.test, test)):
        chosen = part.subset(stratified_subset(part.labels, size, config.seed))
        _write_idx(folder / f"{name}-images-idx3-ubyte", chosen.images[:, 0])
        _write_idx(folder / f"{name}-labels-idx1-ubyte", chosen.labels.to(torch.uint8))


def _write_idx(path: Path, values: Tensor) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(bytes((0, 0, 8, values.ndim)) + sizes + values.contiguous().numpy().tobytes())


def _write_arrays(path: Path, data: DataSplits) -> None:
    arrays: dict[str, Any] = {"mean": np.array(data.mean), "std": np.array(data.std)}
    for name, parts in (("train", (data.train, data.val)), ("test", (data.test,))):
        assert all(isinstance(part, ImageArrays) for part in parts)
        arrays[f"{name}_images"] = torch.cat([part.images for part in parts]).numpy()  # type: ignore[union-attr]
        arrays[f"{name}_labels"] = torch.cat([part.labels for part in parts]).numpy()  # type: ignore[union-attr]
    np.savez(path, **arrays)


def _as_torchvision(run: Run, config: Config, data: DataSplits) -> dict[str, Tensor]:
    """The weights of the run under the names of torchvision's ResNet-18, whose layers stand in the same order."""
    model = build_trainable(config, data.shape, data.num_classes)
    load_final_weights(run, model)
    values = [*model.body.state_dict().values(), *model.head(model.depth).state_dict().values()]
    other = resnet18(num_classes=data.num_classes)
    other.conv1, other.maxpool = nn.Conv2d(data.shape[0], 64, 3, 1, 1, bias=False), nn.Identity()
    other.load_state_dict(dict(zip(other.state_dict(), values, strict=True)))
    x = torch.randn(4, *data.shape)
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(x), model.eval()(x), rtol=1e-3, atol=1e-3)
    return other.state_dict()


# ---------------------------------------------------------------- analyses in processes of their own


@contextmanager
def unanalyzed_copy(run: Run) -> Iterator[Run]:
    """The run as training left it, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=run.path.parent, prefix="copy-") as folder:
        copy = Path(folder) / "run"
        shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("analysis"))
        yield Run.open(copy)


def analyze_in_own_process(run: Run, probes: list[str], max_samples: int, threads: int, *more: str) -> dict[str, Any]:
    """What analyze_once.py finds, and ``wall_seconds`` of its process."""
    arguments = [str(run.path), "--probes", ",".join(probes), "--max-samples", str(max_samples), *more]
    return in_own_process("analyze_once.py", arguments, threads)


def analyze_by_command(run: Run, probes: list[str], max_samples: int, threads: int) -> float:
    """Wall seconds of ``lwexplain analyze``, from the start of the process to its end."""
    options = ["--probes", ",".join(probes), "--max-samples", str(max_samples)]
    return _run(["-m", "lwexplain", "analyze", str(run.path), *options], threads)


def in_own_process(script: str, arguments: list[str], threads: int) -> dict[str, Any]:
    """What a script of this folder writes to the file named by ``--out``, and ``wall_seconds`` of its process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        seconds = _run([str(HERE / script), *arguments, "--out", str(out)], threads)
        return {**json.loads(out.read_text()), "wall_seconds": seconds}


def _run(arguments: list[str], threads: int) -> float:
    number = str(threads)
    environment = {**os.environ, "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, "NUMBA_NUM_THREADS": number}
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True)
    return time.perf_counter() - started
