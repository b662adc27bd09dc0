"""A network that somebody trained in a plain loop, and its loaders."""

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lwexplain as lw

STAGES = ["stem", "blocks.0", "blocks.1"]
MEAN, STD = [0.3], [0.4]


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


class Net(nn.Module):
    """Not ours: a stem, blocks in a list, dropout, and a dictionary of logits."""

    def __init__(self, classes=10, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.blocks = nn.ModuleList([Block(width, 2 * width), Block(2 * width, 2 * width)])
        self.drop, self.fc = nn.Dropout(0.1), nn.Linear(2 * width, classes)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return {"logits": self.fc(self.drop(x.mean((2, 3))))}


def digits():
    """Images (N, 1, 8, 8) normalised by MEAN and STD, and labels."""
    data = load_digits()
    images = torch.from_numpy(data.images / 16).float()[:, None]
    return (images - MEAN[0]) / STD[0], torch.from_numpy(data.target)


def make_loaders():
    images, labels = digits()
    parts = {"train": slice(0, 600), "val": slice(600, 900), "test": slice(900, 1200)}
    return {
        split: DataLoader(TensorDataset(images[part], labels[part]), batch_size=100, shuffle=split == "train")
        for split, part in parts.items()
    }


@pytest.fixture(scope="session")
def weights():
    """The weights of a Net after a plain loop."""
    torch.manual_seed(0)
    model, loader = Net(), make_loaders()["train"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(4):
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images)["logits"], labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def loaders():
    return make_loaders()


@pytest.fixture(scope="session")
def home_of_images(tmp_path_factory):
    """A folder with a sub-folder of pictures for each digit."""
    home, data = tmp_path_factory.mktemp("pictures"), load_digits()
    for number, (image, label) in enumerate(zip(data.images[:500], data.target[:500], strict=True)):
        (home / str(label)).mkdir(exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).save(home / str(label) / f"{number}.png")
    return home


@pytest.fixture
def model(weights):
    """The trained network, in training mode as a loop leaves it."""
    network = Net()
    network.load_state_dict(weights)
    return network.train()


@pytest.fixture(scope="session")
def adopted_and_analyzed(weights, tmp_path_factory):
    """The directory of an adopted and analyzed run, for tests that copy it; nobody holds its network."""
    network, out = Net(), tmp_path_factory.mktemp("adopted") / "mine"
    network.load_state_dict(weights)
    lw.analyze(lw.adopt(network, make_loaders(), STAGES, out=out), ["head", "linear", "pca"], quiet=True)
    return out


@pytest.fixture
def out(tmp_path):
    return tmp_path / "mine"
