"""The tasks on which depth advice is scored: data set x network x strategy x control."""

import os
from dataclasses import dataclass
from typing import Any

from lwexplain.config import Config, load_config

CIFAR10_JPEG = os.environ.get("CIFAR10_JPEG", "data/cifar10-jpeg")
"""The folder with the JPEG copy of CIFAR-10: ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg``."""


@dataclass(frozen=True)
class Task:
    """One cell of the sweep. ``control`` says what the known answer is about, where there is one:
    ``random_labels``, ``label_noise``, ``two_classes``, ``few_samples`` or ``planted``."""

    name: str
    title: str
    data: dict[str, Any]
    model: dict[str, Any]
    training: dict[str, Any]
    control: str | None = None
    seeds: int = 3

    @property
    def strategy(self) -> str:
        return str(self.training["strategy"])

    def config(self, seed: int, depth: int | None = None) -> Config:
        """The configuration of one training; ``depth`` keeps only the first stages."""
        recipe = {
            "precision": "bf16",
            "optimizer": {"lr": 0.05, "weight_decay": 5e-4},
            "schedule": {"warmup_epochs": 1},
            "checkpoint_seconds": 600,
        }
        tree = {
            "seed": seed,
            "device": "cpu",
            "data": {"batch_size": 64} | self.data,
            "model": self.model | {"depth": depth},
            "training": recipe | self.training,
        }
        return load_config(tree)


def digits(**options: Any) -> dict[str, Any]:
    return {"name": "digits", "val_fraction": 0.25, "test_fraction": 0.35, "batch_size": 32} | options


def fashion(images: int, **options: Any) -> dict[str, Any]:
    """3,000 images of val and the 10,000 of test, whatever the size of train."""
    return {
        "name": "fashion_mnist",
        "train_size": images,
        "val_fraction": 0.05,
        "augment": {"crop": 2, "flip": True},
    } | options


def cifar(images: int, size: int, channels: int, **options: Any) -> dict[str, Any]:
    """CIFAR-10 (JPEG copy): 3,000 images of val and the 10,000 of test."""
    return {
        "name": "folder",
        "root": CIFAR10_JPEG,
        "train_size": images,
        "val_fraction": 0.06,
        "image_size": size,
        "channels": channels,
        "augment": {"crop": size // 8, "flip": True},
    } | options


def dots(*distances: int, samples: int = 14_000) -> dict[str, Any]:
    options = {"distances": list(distances), "samples": samples}
    return {"name": "dot_pairs", "val_fraction": 0.25, "test_fraction": 0.4, "options": options}


def resnet(width: int, units: str = "group") -> dict[str, Any]:
    return {"name": "resnet18", "width": width, "units": units}


def slim(width: int, units: str = "block") -> dict[str, Any]:
    return {"name": "slim_resnet18", "width": width, "units": units}


def vgg(width: int, units: str = "block") -> dict[str, Any]:
    return {"name": "vgg11", "width": width, "units": units}


def cnn(width: int, depth: int = 6, every: int = 2) -> dict[str, Any]:
    return {"name": "cnn", "width": width, "options": {"depth": depth, "downsample_every": every}}


def bp(epochs: int) -> dict[str, Any]:
    return {"strategy": "bp", "epochs": epochs}


def greedy(epochs: int, head: str = "mlp_sr") -> dict[str, Any]:
    return {"strategy": "greedy", "epochs": epochs, "head": head, "prefix_views": 4}


TASKS = (
    # global back-propagation
    Task("fashion_1k_resnet_bp", "Fashion-MNIST 1,000, ResNet-18", fashion(1000, image_size=16, batch_size=32),
         resnet(8), bp(40), seeds=4),
    Task("cifar_colour16_resnet_bp", "CIFAR-10 colour 16 px, ResNet-18", cifar(8000, 16, 3), resnet(12), bp(14)),
    Task("fashion_4k_cnn_bp", "Fashion-MNIST 4,000, CNN", fashion(4000), cnn(12), bp(14)),
    Task("digits_resnet_bp", "digits, ResNet-18, blocks", digits(), resnet(8, "block"), bp(30), seeds=6),
    Task("fashion_6k_vgg_bp", "Fashion-MNIST 6,000, VGG-11", fashion(6000), vgg(10), bp(12)),
    Task("dots_cnn_bp", "dot pairs, 3 stages planted, CNN", dots(1, 3, 5), cnn(16, every=20), bp(10), "planted"),
    Task("fashion_4k_slim_bp", "Fashion-MNIST 4,000, slim ResNet-18", fashion(4000, image_size=16), slim(12), bp(14)),
    Task("noise_resnet_bp", "Fashion-MNIST 4,000, 40 % label noise, ResNet-18",
         fashion(4000, image_size=16, label_noise=0.4), resnet(8), bp(14), "label_noise"),
    Task("cifar_grey16_cnn_bp", "CIFAR-10 grey 16 px, CNN", cifar(8000, 16, 1), cnn(16), bp(14)),
    Task("shirts_resnet_bp", "Fashion-MNIST, shirt or T-shirt, ResNet-18",
         fashion(2000, image_size=16, val_fraction=0.25, classes=["T-shirt/top", "Shirt"]),
         resnet(8), bp(20), "two_classes", seeds=6),
    Task("few_vgg_bp", "Fashion-MNIST 300, VGG-11 groups", fashion(300, batch_size=32),
         vgg(8, "group"), bp(60), "few_samples", seeds=5),
    Task("fashion_4k_resnet_blocks_bp", "Fashion-MNIST 4,000, ResNet-18, blocks",
         fashion(4000, image_size=14), resnet(10, "block"), bp(14)),
    Task("cifar_colour32_vgg_bp", "CIFAR-10 colour 32 px, VGG-11", cifar(6000, 32, 3), vgg(12), bp(14)),
    Task("random_resnet_bp", "Fashion-MNIST 2,000, random labels, ResNet-18",
         fashion(2000, image_size=16, label_noise=1.0), resnet(8), bp(20), "random_labels"),
    # layer-wise
    Task("fashion_4k_resnet_greedy", "Fashion-MNIST 4,000, ResNet-18", fashion(4000), resnet(12), greedy(10)),
    Task("cifar_grey16_cnn_greedy", "CIFAR-10 grey 16 px, CNN", cifar(8000, 16, 1), cnn(16), greedy(10)),
    Task("digits_resnet_greedy", "digits, ResNet-18, blocks, linear heads",
         digits(), resnet(8, "block"), greedy(20, "linear"), seeds=6),
    Task("dots_cnn_greedy", "dot pairs, 3 stages planted, CNN, linear heads",
         dots(1, 3, 5), cnn(16, every=20), greedy(10, "linear"), "planted"),
    Task("fashion_6k_vgg_greedy", "Fashion-MNIST 6,000, VGG-11", fashion(6000), vgg(8), greedy(10)),
    Task("cifar_colour32_resnet_greedy", "CIFAR-10 colour 32 px, ResNet-18", cifar(5000, 32, 3), resnet(10), greedy(8)),
    Task("noise_slim_greedy", "Fashion-MNIST 4,000, 40 % label noise, slim ResNet-18",
         fashion(4000, image_size=16, label_noise=0.4), slim(8), greedy(8), "label_noise"),
    Task("few_cnn_greedy", "Fashion-MNIST 300, CNN", fashion(300, batch_size=32), cnn(12), greedy(40),
         "few_samples", seeds=5),
    Task("fashion_4k_blocks_greedy", "Fashion-MNIST 4,000, ResNet-18, blocks, linear heads",
         fashion(4000, image_size=16), resnet(12, "block"), greedy(10, "linear")),
    Task("shirts_slim_greedy", "Fashion-MNIST, shirt or T-shirt, slim ResNet-18",
         fashion(2000, image_size=16, val_fraction=0.25, classes=["T-shirt/top", "Shirt"]),
         slim(8), greedy(15), "two_classes", seeds=6),
    Task("random_cnn_greedy", "Fashion-MNIST 2,000, random labels, CNN",
         fashion(2000, image_size=16, label_noise=1.0), cnn(8), greedy(10), "random_labels"),
)  # fmt: skip
