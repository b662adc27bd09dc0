"""The data sets that torchvision publishes: MNIST and its kin, CIFAR, SVHN and STL-10.

Files are looked for in ``data.root`` or, without it, in ~/.cache/lwexplain. Nothing is downloaded unless
``data.download`` is set.
"""

import contextlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwexplain.config import DataConfig
from lwexplain.data.dataset import DATASETS, ImageArrays, Source
from lwexplain.data.idx import find_idx, read_pair
from lwexplain.data.image_file import spell
from lwexplain.data.root import expanded_root
from lwexplain.errors import DataError
from lwexplain.registry import nearest

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
MNIST_FILES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]


@DATASETS.register("mnist")
def mnist(config: DataConfig) -> Source:
    """MNIST: handwritten digits, grey 28x28, 60,000 + 10,000 images, 10 classes."""
    return _idx_set("mnist", "MNIST", config, [str(digit) for digit in range(10)])


@DATASETS.register("fashion_mnist")
def fashion_mnist(config: DataConfig) -> Source:
    """Fashion-MNIST: articles of clothing, grey 28x28, 60,000 + 10,000 images, 10 classes.

    Without ``data.root`` the files of Debian's package dataset-fashion-mnist are used where installed.
    """
    from torchvision.datasets import FashionMNIST

    return _idx_set("fashion_mnist", "FashionMNIST", config, FashionMNIST.classes, (DEBIAN_FASHION_MNIST,))


@DATASETS.register("kmnist")
def kmnist(config: DataConfig) -> Source:
    """Kuzushiji-MNIST: cursive Japanese characters, grey 28x28, 60,000 + 10,000 images, 10 classes."""
    from torchvision.datasets import KMNIST

    return _idx_set("kmnist", "KMNIST", config, KMNIST.classes)


@DATASETS.register("emnist")
def emnist(config: DataConfig, *, split: str = "balanced") -> Source:
    """EMNIST: handwritten letters and digits, grey 28x28; option split (default balanced, 47 classes).

    The files hold each image transposed; here it stands upright. Raises DataError for an unknown split.
    """
    from torchvision.datasets import EMNIST

    if split not in EMNIST.splits:
        raise DataError(f"emnist has no split {split!r}; {nearest(split, list(EMNIST.splits))}")
    first = 1 if split == "letters" else 0  # labels of letters start at 1
    source = _idx_set(
        "emnist",
        "EMNIST",
        config,
        EMNIST.classes_split_dict[split][first:],
        files=[
            f"emnist-{split}-{part}-{kind}-ubyte"
            for part in ("train", "test")
            for kind in ("images-idx3", "labels-idx1")
        ],
        split=split,
    )

    def upright(part: Any) -> ImageArrays:
        return ImageArrays(part.images.transpose(2, 3).contiguous(), part.labels - first)

    return Source("emnist", source.classes, upright(source.train), upright(source.test))


@DATASETS.register("cifar10")
def cifar10(config: DataConfig) -> Source:
    """CIFAR-10: photographs, colour 32x32, 50,000 + 10,000 images, 10 classes."""
    return _array_set("cifar10", "CIFAR10", config, "cifar-10-batches-py")


@DATASETS.register("cifar100")
def cifar100(config: DataConfig) -> Source:
    """CIFAR-100: photographs, colour 32x32, 50,000 + 10,000 images, 100 classes."""
    return _array_set("cifar100", "CIFAR100", config, "cifar-100-python")


@DATASETS.register("svhn")
def svhn(config: DataConfig) -> Source:
    """Street View House Numbers: colour 32x32, 73,257 + 26,032 images, 10 classes."""
    return _array_set("svhn", "SVHN", config, "train_32x32.mat")


@DATASETS.register("stl10")
def stl10(config: DataConfig) -> Source:
    """STL-10: photographs, colour 96x96, 5,000 + 8,000 labelled images, 10 classes."""
    return _array_set("stl10", "STL10", config, "stl10_binary")


def default_root() -> Path:
    """Where data sets lie unless ``data.root`` says otherwise."""
    return Path.home() / ".cache" / "lwexplain"


def _idx_set(
    name: str,
    class_name: str,
    config: DataConfig,
    classes: list[str],
    elsewhere: tuple[Path, ...] = (),
    files: list[str] = MNIST_FILES,
    **options: Any,
) -> Source:
    root = _root(config)
    inside = [root / class_name / "raw", root / "raw", root / class_name, root]
    folders = inside if config.root else [*elsewhere, *inside]
    paths = _find(folders, files)
    if paths is None and config.download:
        _download(name, root, partial(_torchvision(class_name), root, train=True, download=True, **options))
        paths = _find(folders, files)
    if paths is None:
        raise _missing(name, root, f"the files {', '.join(files)} (plain or .gz)")
    return Source(name, list(classes), read_pair(paths[0], paths[1]), read_pair(paths[2], paths[3]))


def _find(folders: list[Path], files: list[str]) -> list[Path] | None:
    for folder in folders:
        paths = find_idx(folder, files)
        if paths is not None:
            return paths
    return None


def _array_set(name: str, class_name: str, config: DataConfig, marker: str) -> Source:
    root = _root(config)
    if not config.download and not (root / marker).exists():
        raise _missing(name, root, marker)
    parts, classes = [], [str(digit) for digit in range(10)]
    for part in ("train", "test"):
        which: dict[str, Any] = {"split": part} if class_name in ("SVHN", "STL10") else {"train": part == "train"}
        if config.download:
            _download(name, root, partial(_torchvision(class_name), root, download=True, **which))
        try:
            loaded = _torchvision(class_name)(root, **which)
        except Exception as error:  # torchvision says "corrupted" in many ways, and so do pickle and scipy
            raise DataError(
                f"{name} in {root} is incomplete or damaged: {_first_line(error)}; "
                f"remove {root / marker}, then set data.download=true or copy the files again"
            ) from None
        classes = list(getattr(loaded, "classes", classes))
        parts.append(_arrays(loaded))
    train, test = parts
    return Source(name, classes, train, test)


def _arrays(loaded: Any) -> ImageArrays:
    pixels = torch.from_numpy(np.ascontiguousarray(loaded.data))
    if pixels.shape[-1] == 3:
        pixels = pixels.permute(0, 3, 1, 2).contiguous()
    labels = loaded.targets if hasattr(loaded, "targets") else loaded.labels
    return ImageArrays(pixels, torch.as_tensor(np.asarray(labels, dtype=np.int64)))


def _root(config: DataConfig) -> Path:
    return expanded_root(config.root) if config.root else default_root()


def _torchvision(class_name: str) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, class_name)


def _download(name: str, root: Path, fetch: Callable[[], Any]) -> None:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
            fetch()
    except Exception as error:  # no network, no space, a moved server: each library layer has its own
        raise DataError(
            f"cannot download {name} into {root}: {_first_line(error)}; "
            "check the network, or put the files there by other means"
        ) from None


def _missing(name: str, root: Path, what: str) -> DataError:
    where = "" if root.is_absolute() else f" below {spell(Path.cwd())}, where you are"
    return DataError(
        f"{name} is not in {spell(root)}{where}: {what} not found there; set data.root=FOLDER or data.download=true "
        "(of a run that is there already, in its config.yaml)"
    )


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
