"""``lwexplain stages``: the stages of a network of one's own, before anything is run."""

import json
import sys

import pytest

from lwexplain.cli import main

CODE = """
from torch import nn

print("loading the code of the network")

class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x).relu()

class Network(nn.Module):
    def __init__(self, depth=3, channels=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2), nn.ReLU())
        self.blocks = nn.ModuleList(Block(4) for _ in range(depth))
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))
"""


@pytest.fixture
def stages(tmp_path, monkeypatch, capsys):
    """Runs the command in a folder that holds the code; returns its exit code, output and errors."""
    (tmp_path / "my_stages_network.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)

    def run(*words, model="my_stages_network:Network"):
        monkeypatch.setattr(sys, "argv", ["lwexplain", "stages", "--model", model, "--image-size", "16", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert sys.path == before
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    yield run
    sys.modules.pop("my_stages_network", None)


def test_the_table_names_every_stage_and_the_next_step(stages):
    code, out, err = stages()
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[:4] == ["depth", "stage", "module", "output"]
    assert [line.split()[1] for line in lines[2:6]] == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    assert lines[2].split() == ["1", "stem", "Sequential", "4x7x7", "112", "112", "10,584", "10,584"]
    assert lines[-1].startswith("next: ")
    assert "adopt --model my_stages_network:Network" in lines[-1]
    assert "loading the code" in err  # what the code prints is not among the results


def test_json_holds_the_same(stages):
    code, out, _ = stages("--json", "--model-args", '{"depth": 1, "channels": 1}', "--channels", "1")
    found = json.loads(out)
    assert code == 0
    assert [stage["name"] for stage in found] == ["stem", "blocks.0"]
    assert found[0] == {
        "depth": 1,
        "name": "stem",
        "module": "Sequential",
        "shape": [4, 7, 7],
        "parameters": 40,
        "parameters_to_here": 40,
        "flops": 3528,
        "flops_to_here": 3528,
    }


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("blocks.0,blocks.2", ["blocks.0", "blocks.2"]),
        ("blocks.1", ["blocks.1"]),
        (r"blocks\.\d", ["blocks.0", "blocks.1", "blocks.2"]),
        (r"blocks\.\d{1,2}", ["blocks.0", "blocks.1", "blocks.2"]),
    ],
)
def test_stages_are_names_with_commas_or_an_expression(stages, asked, names):
    _, out, _ = stages("--stages", asked, "--json")
    assert [stage["name"] for stage in json.loads(out)] == names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stages", "blocks.0,blocks.7"], "no stage 'blocks.7'"),
        (["--stages", "block.*x"], "no module's name matches"),
        (["--model-args", "{depth: 3}"], "--model-args is no JSON"),
        (["--model-args", "[3]"], "give an object of names and values"),
        (["--model-args", '{"deep": 3}'], "unexpected keyword argument 'deep'"),
        (["--channels", "1"], "given an image of shape (1, 16, 16), raised RuntimeError"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(stages, words, message):
    code, out, err = stages(*words)
    said = [line for line in err.splitlines() if "loading" not in line]
    assert (code, out) == (2, "")
    assert message in said[0]
    assert len(said) <= 2


def test_a_module_that_does_not_exist_is_named(stages):
    code, _, err = stages(model="my_stages_netwrok:Network")
    assert code == 2
    assert "there is no module 'my_stages_netwrok'" in err
