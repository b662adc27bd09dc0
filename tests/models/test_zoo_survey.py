"""Networks of torchvision, timm and transformers through stages, cut, costs and export, one of each family.

All of them are asked with ``-m survey``; ``tests/benchmarks/zoo_survey.py`` writes the table of the documentation.
"""

import json
from pathlib import Path

import pytest
from network_survey import survey
from surveyed_networks import surveyed_networks, timm_networks, torchvision_networks, transformers_networks

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "zoo_survey.json"

SMALLEST = [
    *("alexnet", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0"),
]
TIMM = ["vit_tiny_patch16_224", "beit_base_patch16_224", "resnet10t", "mobilenetv3_small_050"]
TRANSFORMERS = ["ViT", "Swin", "ResNet"]


def of_library(library, names):
    return [network for network in surveyed_networks() if network.library == library and network.name in names]


@pytest.mark.parametrize("network", of_library("torchvision", SMALLEST), ids=lambda network: network.name)
def test_a_network_of_each_family_of_torchvision_is_cut_where_hooks_look(network):
    found = survey(network, costs=network.name == "resnet18", export=network.name == "squeezenet1_0")
    assert found.failure is None
    assert len(found.stages) >= 5


@pytest.mark.parametrize("network", of_library("timm", TIMM), ids=lambda network: network.name)
def test_networks_of_timm_are_cut_where_hooks_look(network):
    pytest.importorskip("timm", reason="the extra 'models' is not installed")
    assert survey(network, costs=False, export=False).failure is None


@pytest.mark.parametrize("network", of_library("transformers", TRANSFORMERS), ids=lambda network: network.name)
def test_networks_of_transformers_are_cut_where_hooks_look(network):
    pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
    assert survey(network, costs=network.name == "Swin", export=False).failure is None


def test_the_survey_holds_every_classifier_of_torchvision_and_enough_of_the_others():
    import torchvision.models

    assert len(torchvision_networks()) == len(torchvision.models.list_models(module=torchvision.models))
    assert len(timm_networks()) >= 40
    assert len({network.family for network in timm_networks()}) >= 25
    assert len(transformers_networks()) >= 8


def test_the_result_file_says_of_every_network_how_it_was_cut_or_why_it_was_not():
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
