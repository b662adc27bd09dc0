"""A network whose evidence lies at a known place, images with edges everywhere, and maps to plant on them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.probes.attribution import Explanation, Method
from lwexplain.probes.attribution.gradients import GradientXInput

SIDE, PATCH = 24, 6


@dataclass(frozen=True)
class Planted:
    """``evidence`` (N, H, W) is True where the coloured patch lies that alone decides the class."""

    body: nn.Module
    head: nn.Module
    images: Tensor
    labels: Tensor
    evidence: np.ndarray


def make_planted():
    """Grey rectangles on grey with a coloured patch in each image; the network answers to colour only.

    Its first layer subtracts the other channels from one, mean over 3 x 3 pixels, and cuts off what is below 0.5.
    """
    rng = np.random.default_rng(0)
    images = np.zeros((12, 3, SIDE, SIDE), dtype=np.float32)
    evidence = np.zeros((12, SIDE, SIDE), dtype=bool)
    labels = np.arange(12) % 3
    for image, place, label in zip(images, evidence, labels, strict=True):
        for _ in range(14):
            (top, left), (height, width) = rng.integers(0, SIDE - 3, 2), rng.integers(3, 10, 2)
            image[:, top : top + height, left : left + width] = rng.normal()
        top, left = rng.integers(1, SIDE - PATCH, 2)
        rows, columns = slice(top, top + PATCH), slice(left, left + PATCH)
        place[rows, columns] = True
        image[:, rows, columns] = -0.5
        image[label, rows, columns] = 1.5
        image += 0.1 * rng.normal(size=image.shape)
    body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    with torch.no_grad():
        opposed = 1.5 * torch.eye(3) - 0.5
        body[0].weight.copy_(opposed[:, :, None, None].expand(3, 3, 3, 3) / 9)
        body[0].bias.fill_(-0.5)
        head[2].weight.copy_(torch.eye(3) * 60 + 0.01 * torch.arange(9.0).view(3, 3))
        head[2].bias.copy_(torch.tensor([0.0, 0.1, -0.1]))
    assert head(body(torch.from_numpy(images))).argmax(1).tolist() == labels.tolist()
    return Planted(body.eval(), head.eval(), torch.from_numpy(images), torch.from_numpy(labels), evidence)


class EdgeDetector(Method):
    """A map that looks like an explanation and ignores the network: Sobel edges of the image."""

    name = "edges"

    def compute(self, network, x, target, chunker):
        kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        padded = nn.functional.pad(x.detach(), (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
        slopes = nn.functional.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])
        return Explanation(slopes.norm(dim=1).view_as(x).sum(1))


class Mix(Method):
    """``share`` of an edge detector and the rest of gradient x input, each scaled by ``scale`` before."""

    name = "mix"

    def __init__(self, share, scale):
        self.share, self.scale = share, scale

    def compute(self, network, x, target, chunker):
        edges, true = (
            method.compute(network, x.clone(), target, chunker).maps.detach()
            for method in (EdgeDetector(), GradientXInput())
        )
        edges, true = (maps / self.scale(maps).clamp(min=1e-12)[:, None, None] for maps in (edges, true))
        return Explanation(self.share * edges + (1 - self.share) * true)
