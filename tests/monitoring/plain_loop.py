"""A training loop as a person writes it: a small network with dropout and batch norm, augmented images."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 4


def made_images(n, seed=0, classes=CLASSES):
    """Images (n, 1, 8, 8) of classes that a network learns in a few steps, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    images = torch.randn(n, 1, 8, 8, generator=generator)
    images[torch.arange(n), 0, labels % 8] += 1.5
    return images, labels


def small_network():
    """Always the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(72, 16),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(16, CLASSES),
    )


STAGES = ["2", "6"]


def val_loader(n=160, **options):
    return DataLoader(TensorDataset(*made_images(n, seed=1)), batch_size=32, **options)


def train(model, epochs=2, each_epoch=lambda epoch: None, images=96, seed=5):
    """Plain training; shuffling, augmentation and dropout draw from the global random state."""
    torch.manual_seed(seed)
    loader = DataLoader(TensorDataset(*made_images(images)), batch_size=32, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        model.train()
        for x, y in loader:
            x = x + 0.1 * torch.randn_like(x)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        each_epoch(epoch)
    return model
