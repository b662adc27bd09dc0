"""Networks of torchvision, timm and transformers through stages, cut, costs and export, one of each family.

All of them are asked with ``-m survey``; ``tests/benchmarks/zoo_survey.py`` writes the table of the documentation.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torchvision.models as vision
from network_survey import survey
from surveyed_networks import surveyed_networks, timm_networks, torchvision_networks, transformers_networks
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.vgg import make_layers

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "zoo_survey.json"

SMALLEST = {
    "alexnet": ["features.1", "features.4", "features.7", "features.9", "features.11"],
    "efficientnet_b0": 18,
    "googlenet": 12,
    "inception_v3": 16,
    "mnasnet0_5": 18,
    "mobilenet_v2": [f"features.{n}" for n in range(19)],
    "mobilenet_v3_small": [f"features.{n}" for n in range(13)],
    "resnet18": ["maxpool", *(f"layer{n}.{m}" for n in (1, 2, 3, 4) for m in (0, 1))],
    "shufflenet_v2_x0_5": 18,
    "squeezenet1_0": 9,
}
"""The names of the stages, or how many there are."""


@dataclass(frozen=True)
class Narrow:
    """A network of a family whose smallest builder is large, made by its class."""

    name: str
    make: Callable[[], nn.Module]
    stages: int
    size: int = 32

    def build(self):
        return self.make().eval()


NARROW = [
    Narrow("vision_transformer", lambda: vision.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5), 3),
    Narrow("swin_transformer", lambda: vision.SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2], num_classes=5), 5),
    Narrow(
        "convnext", lambda: vision.ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], num_classes=5), 5
    ),
    Narrow("densenet", lambda: vision.DenseNet(4, (2, 2, 2), 8, 2, num_classes=5), 6),
    Narrow("regnet", lambda: vision.RegNet(BlockParams.from_init_params(4, 8, 8, 2.0, 8), num_classes=5), 5),
    Narrow("vgg", lambda: vision.VGG(make_layers([8, "M", 8, 512, "M"]), num_classes=5), 3),
    Narrow("maxvit", lambda: vision.MaxVit((64, 64), 8, 4, [8, 16], [1, 1], 4, 0.0, num_classes=5), 7, 64),
]

TIMM = {"vit_tiny_patch16_224": 6, "resnet10t": 5, "convnext_atto": 13}
TRANSFORMERS = {"ResNet": 7}


def of_library(library, names):
    return [network for network in surveyed_networks() if network.library == library and network.name in names]


@pytest.mark.parametrize("network", of_library("torchvision", SMALLEST), ids=lambda network: network.name)
def test_a_network_of_each_family_of_torchvision_is_cut_where_hooks_look(network):
    found = survey(network, costs=False, export=False)
    assert found.failure is None
    expected = SMALLEST[network.name]
    assert found.stages == expected if isinstance(expected, list) else len(found.stages) == expected


@pytest.mark.parametrize("network", NARROW, ids=lambda network: network.name)
def test_narrow_networks_of_the_other_families_have_costs_too(network):
    with_file = network.name == "vgg"
    found = survey(network, export=with_file)
    assert (found.failure, len(found.stages)) == (None, network.stages)
    assert not with_file or found.export == "equal"


def test_every_family_of_torchvision_is_among_these():
    families = {known.family: known.name for known in torchvision_networks()}
    asked = {known.family for known in of_library("torchvision", SMALLEST)} | {network.name for network in NARROW}
    assert asked == set(families)


@pytest.mark.parametrize("network", of_library("timm", TIMM), ids=lambda network: network.name)
def test_networks_of_timm_are_cut_where_hooks_look(network):
    pytest.importorskip("timm", reason="the extra 'models' is not installed")
    found = survey(network, costs=False, export=network.name == "vit_tiny_patch16_224")
    assert (found.failure, len(found.stages)) == (None, TIMM[network.name])


@pytest.mark.parametrize("network", of_library("transformers", TRANSFORMERS), ids=lambda network: network.name)
def test_networks_of_transformers_are_cut_where_hooks_look(network):
    pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
    found = survey(network, costs=True, export=False)
    assert (found.failure, len(found.stages)) == (None, TRANSFORMERS[network.name])


def test_the_survey_holds_every_classifier_of_torchvision_and_enough_of_the_others():
    assert len(torchvision_networks()) == len(vision.list_models(module=vision))
    assert len(timm_networks()) >= 40
    assert len({network.family for network in timm_networks()}) >= 25
    assert len(transformers_networks()) >= 8


def test_the_result_file_says_of_its_networks_how_each_was_cut_or_why_it_was_not():
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["networks"]
    assert {f"{row['library']}/{row['name']}" for row in rows} == {network.key for network in surveyed_networks()}
    failed = {row["name"]: row["failure"] for row in rows if row["failure"] is not None}
    assert not [row for row in rows if row["library"] == "torchvision" and row["name"] in failed]
    assert len(failed) <= 0.05 * len(rows)
    assert all(row["way"] and row["export"] and len(row["stages"]) >= 3 for row in rows if row["name"] not in failed)


@pytest.mark.survey
@pytest.mark.parametrize("network", surveyed_networks(), ids=lambda network: network.key)
def test_every_network_of_the_survey_has_stages_cut_costs_and_export(network):
    pytest.importorskip(network.library)
    assert survey(network).failure is None
