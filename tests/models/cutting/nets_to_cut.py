"""Small networks of all kinds, with the names of their stages and the way in which they are cut."""

import timm
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from transformers import ViTConfig, ViTForImageClassification


class Choosing(nn.Module):
    """Goes on as the values of the images say."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.classifier = nn.Linear(4, 5)

    def forward(self, x):
        x = self.first(x)
        if x.mean() > 0:
            x = 2 * x
        return self.classifier(self.second(x).mean((2, 3)))


class Twice(nn.Module):
    """One module that runs twice, one that never does, and images by keyword."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.relu, self.classifier, self.unused = nn.ReLU(inplace=True), nn.Linear(4, 5), nn.Linear(3, 3)

    def forward(self, *, images):
        x = self.relu(self.second(self.relu(self.first(images))))
        return {"logits": self.classifier(x.mean((2, 3)))}


def nested():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.Dropout(0.5)),
        nn.Sequential(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(2)),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def transformer():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, num_labels=5, **sizes))


def of_timm(name, **arguments):
    return timm.create_model(name, num_classes=5, **arguments)


def of_torchvision(name):
    return torchvision.models.get_model(name, num_classes=5)


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2)}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}
LITE = ["_blocks.0", "_blocks.7", "_conv_head"]

NETWORKS = {
    "vit of timm": lambda: (of_timm("vit_tiny_patch16_224", **VIT), ["blocks.0", "blocks.1", "blocks.2"], "own API"),
    "convnext of timm": lambda: (of_timm("convnext_atto", **CONVNEXT), ["stages.0", "stages.2"], "own API"),
    "swin of timm": lambda: (of_timm("swin_tiny_patch4_window7_224", **SWIN), ["layers.0", "layers.1"], "own API"),
    "efficientnet of timm": lambda: (of_timm("efficientnet_lite0"), ["blocks.1.0", "conv_head"], "graph"),
    "resnet18": lambda: (of_torchvision("resnet18"), ["maxpool", "layer1.0", "layer4"], "graph"),
    "squeezenet": lambda: (of_torchvision("squeezenet1_1"), ["features.2", "features.12"], "graph"),
    "mobilenet": lambda: (of_torchvision("mobilenet_v3_small"), ["features.1", "features.12"], "graph"),
    "efficientnet-lite": lambda: (EfficientNet.from_name("efficientnet-lite0", num_classes=5), LITE, "graph"),
    "transformer": lambda: (transformer(), ["vit.layers.0", "vit.layers.1"], "graph"),
    "nested": lambda: (nested(), ["0.1", "0.3", "1.0.0", "1"], "containers"),
    "choosing": lambda: (Choosing(), ["first", "second"], "hook"),
    "twice": lambda: (Twice(), ["relu#1", "second"], "graph"),
}


def images_of(network):
    side = 8 if isinstance(network, (Choosing, Twice)) else 32
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def seen_by_hooks(network, names, images):
    """The raw output of every stage, of a call by its number where the name has one."""
    outputs, modes = {}, {part: part.training for part in network.modules()}
    handles = []
    for name in names:
        path = name.partition("#")[0]

        def keep(module, args, output, path=path):
            tensor = output if isinstance(output, torch.Tensor) else output[0]
            outputs.setdefault(path, []).append(tensor.clone())

        handles.append(network.get_submodule(path).register_forward_hook(keep))
    for part in modes:
        part.training = False
    with torch.no_grad():
        network(images=images) if isinstance(network, Twice) else network(images)
    for handle in handles:
        handle.remove()
    for part, mode in modes.items():
        part.training = mode
    return [outputs[name.partition("#")[0]][int(name.partition("#")[2] or 1) - 1] for name in names]
