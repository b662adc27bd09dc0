"""From a network of one's own to the explorer, in the lines of the README: from the shell and from Python."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

import lwexplain as lw
from lwexplain.cli import app
from lwexplain.explorer.server import SCRIPT

CODE = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.down = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.down(x))


class ResNet(nn.Module):
    def __init__(self, classes, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1), nn.ReLU())
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc(x.mean((2, 3)))


def small(classes=4):
    print("a factory that talks")
    return ResNet(classes)
"""
PROBES = "head,linear,separability,pca"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder as a person has it: code, trained weights, and images in a folder for each class."""
    home = tmp_path_factory.mktemp("home")
    (home / "own_nets.py").write_text(CODE)
    data = load_digits()
    for number, (image, label) in enumerate(zip(data.images, data.target, strict=True)):
        if label < 4:
            place = home / "images" / ("test" if number % 4 == 0 else "train") / "abcd"[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15).astype(np.uint8)).save(place / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        import own_nets

        torch.manual_seed(0)
        model = own_nets.small()
    chosen = data.target < 4
    images = (torch.from_numpy(data.images[chosen] * 15 / 255).float()[:, None] - 0.3) / 0.4
    labels = torch.from_numpy(data.target[chosen])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for part in torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).split(90) * 3:
        loss = torch.nn.functional.cross_entropy(model(images[part]), labels[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(
        {f"module.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}, home / "w.safetensors"
    )
    yield home
    sys.modules.pop("own_nets", None)


@pytest.fixture
def shell(home, monkeypatch):
    """Commands as they are typed in that folder."""
    monkeypatch.chdir(home)

    def run(*words):
        result = CliRunner().invoke(app, list(words))
        if result.exception is not None:
            raise result.exception
        return result.stdout

    return run


ADOPT = [
    "adopt", "--model", "own_nets:small", "--weights", "w.safetensors", "--data", "folder", "--root", "images",
    "--mean", "0.3", "--std", "0.4", "--run-dir", "runs/mine",
]  # fmt: skip
AGAIN = ["--model", "own_nets:small"]


@pytest.mark.usefixtures("no_search_for_components")
def test_the_lines_of_the_shell_lead_from_a_network_to_explorer_and_export(shell, home, monkeypatch):
    assert "adopted: runs/mine, 5 stages" in (said := shell(*ADOPT))
    assert "a factory that talks" not in said
    assert "next: lwexplain analyze runs/mine --model own_nets:small" in said
    shell("analyze", "runs/mine", "--probes", PROBES)
    advice = json.loads(shell("recommend", "runs/mine", "--json"))
    assert advice["full_accuracy"] > 0.8
    shell("report", "runs/mine")
    assert (home / "runs/mine/report.html").exists()
    exported = json.loads(shell("export", "runs/mine", "--depth", "2", "--out", "short.pt2", "--json", *AGAIN))
    assert exported["depth"] == 2
    assert exported["short"]["test_accuracy"]["value"] > 0.5
    assert exported["full"]["test_accuracy"]["value"] > 0.8
    assert max(exported["parity"].values()) < 1e-3
    written = torch.export.load(home / "short.pt2").module()
    pixels = (
        torch.from_numpy(np.array(Image.open(next((home / "images/test/a").glob("*.png"))))).float()[None, None] / 255
    )
    assert written(pixels).shape == (1, 4)
    monkeypatch.setenv("LWEXPLAIN_RUNS", str(home / "runs"))
    page = AppTest.from_file(str(SCRIPT), default_timeout=60).run()
    assert not page.exception
    assert any("ResNet on folder" in caption.value for caption in page.caption)


def test_the_lines_of_python_lead_from_a_network_to_explorer_and_export(home, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(home))
    import own_nets

    model = own_nets.small()
    run = lw.adopt(model, home / "images", out=tmp_path / "mine", mean=[0.3], std=[0.4])
    lw.analyze(run, PROBES.split(","), quiet=True)
    assert lw.recommend(run).full_depth == 5
    assert lw.report(run).exists()
    exported = lw.export(run, tmp_path / "short.pt2", depth="layer1.1")
    assert (exported.stage, exported.head) == ("layer1.1", "fresh")


def test_weights_that_do_not_fit_are_refused_before_anything_is_made(shell, home):
    save_file({"other": torch.zeros(2)}, home / "other.safetensors")
    words = [word if word != "w.safetensors" else "other.safetensors" for word in ADOPT]
    words[words.index("runs/mine")] = "runs/none"
    with pytest.raises(lw.LwexplainError, match="other"):
        shell(*words)
    assert not Path("runs/none").exists()


def test_nobody_guesses_how_images_are_normalised(shell):
    words = [word for word in ADOPT if word not in ("--mean", "--std", "0.3", "0.4")]
    with pytest.raises(lw.LwexplainError, match="nothing says how images are normalised"):
        shell(*words[:-1], "runs/unsaid")


def test_numbers_of_an_option_are_numbers(shell):
    words = [word if word != "0.3" else "grey" for word in ADOPT]
    with pytest.raises(lw.LwexplainError, match="--mean is 'grey'"):
        shell(*words)
