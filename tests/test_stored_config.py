"""From the configuration of a run directory nothing is taken that fetches, reads weights or names a class."""

import pytest
import torch

from lwexplain.config import load_config
from lwexplain.errors import ConfigError, ModelError, RunError
from lwexplain.models.build import build_model
from lwexplain.models.size_limit import SizeLimit
from lwexplain.stored_config import is_config_of_a_run, require_own_sources, without_outside


def config_with(options, name="timm", **data):
    return load_config({"model": {"name": name, "options": {"arch": "resnet10t"} | options}, "data": data})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("pretrained", True),
        ("checkpoint_path", "/tmp/weights.pth"),
        ("cache_dir", "/tmp/cache"),
        ("pretrained_cfg", {"file": "/tmp/weights.pth"}),
        ("pretrained_cfg_overlay", {"url": "https://example.org/w.pth"}),
        ("weights", "DEFAULT"),
        ("weights_backbone", "DEFAULT"),
    ],
)
def test_no_source_of_weights_is_taken_from_a_run(option, value):
    taken = without_outside(config_with({option: value}), "run/config.yaml")
    assert taken.model.options == {"arch": "resnet10t"}


@pytest.mark.parametrize(
    "value",
    [
        "/etc/passwd", "../weights.pth", "https://example.org/w.pth", "hf-hub:user/name", "a" * 300, {"file": "w.pth"},
        [["..", "/x"]], "file://w", float("inf"), 10**9, [[[[1]]]], [0] * 5000, "a b",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["model.options.act_layer", "data.options.samples", "training.loss_options.weight"])
def test_options_that_could_name_a_place_or_are_out_of_all_bounds_are_refused(key, value):
    config = load_config({"model": {"options": {}}}, {key: value})
    with pytest.raises(RunError, match=r"run/config.yaml: .* from a run directory only numbers, plain"):
        without_outside(config, "run/config.yaml")


@pytest.mark.parametrize("option", ["hook", "norm_fn", "pretrained_strict", "url", "hf_hub_id", "file"])
def test_options_of_a_library_that_are_not_on_the_list_are_refused(option):
    with pytest.raises(RunError, match=f"model.options.'{option}' is not among the options of timm"):
        without_outside(config_with({option: "word"}), "run/config.yaml")


def test_options_that_shape_a_network_are_taken():
    options = {"depths": [2, 2], "drop_rate": 0.1, "act_layer": "gelu", "qkv_bias": True, "stages": ["layer1.0", "fc"]}
    assert without_outside(config_with(options), "x").model.options == {"arch": "resnet10t"} | options


def test_nothing_is_downloaded_for_a_run_unless_the_person_says_so():
    config = config_with({}, name="cnn", download=True, root="/data")
    assert without_outside(config, "x").data.download is False
    assert without_outside(config, "x", download=True).data.download is True
    with pytest.raises(RunError, match=r"asked for by yourself: add data.download=VALUE"):
        require_own_sources(config_with({}, download=True), "run/config.yaml", {})
    require_own_sources(config_with({}, download=True), "run/config.yaml", {"data.download": True})


def test_a_new_training_from_the_file_of_a_run_fetches_only_what_the_person_names():
    config = config_with({"pretrained": True})
    with pytest.raises(RunError, match=r"add model.options.pretrained=VALUE"):
        require_own_sources(config, "run/config.yaml", {"training.epochs": 1})
    require_own_sources(config, "run/config.yaml", {"model.options.pretrained": True})
    require_own_sources(config_with({"pretrained": False}), "run/config.yaml", {})


def test_a_file_in_a_run_directory_is_known_by_the_manifest_beside_it(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1")
    assert not is_config_of_a_run(tmp_path / "config.yaml")
    (tmp_path / "run.json").write_text("{}")
    assert is_config_of_a_run(tmp_path / "config.yaml")
    assert not is_config_of_a_run(tmp_path / "mine.yaml")


@pytest.mark.parametrize("arch", ["hf-hub:timm/resnet10t", "hf_hub:a/b", "local-dir:/tmp/x", "/tmp/x", "../x", 3])
def test_timm_builds_only_networks_that_it_holds_itself(arch):
    pytest.importorskip("timm", reason="the extra 'models' is not installed")
    with pytest.raises(ModelError, match="timm holds no network"):
        build_model(config_with({"arch": arch}).model, (3, 32, 32), 4, seed=0)


@pytest.mark.parametrize("arch", ["fcn_resnet50", "fasterrcnn_resnet50_fpn", "deeplabv3_resnet50", "raft_small"])
def test_torchvision_builds_classifiers_only_because_others_fetch_weights_by_themselves(arch):
    with pytest.raises(ModelError, match="torchvision has no model"):
        build_model(config_with({"arch": arch}, name="torchvision").model, (3, 32, 32), 4, seed=0)


def test_a_network_of_pretrained_weights_is_built_alike_without_them(monkeypatch):
    """googlenet sets two options by itself where it gets weights."""
    from torchvision.models import GoogLeNet_Weights, googlenet

    bare = googlenet(num_classes=1000, init_weights=False).state_dict()
    monkeypatch.setattr(GoogLeNet_Weights, "get_state_dict", lambda *_args, **_options: bare)
    stages = ["inception3b", "inception4e", "inception5b"]
    config = config_with({"arch": "googlenet", "weights": "DEFAULT", "stages": stages}, name="torchvision")
    fetched = build_model(config.model, (3, 64, 64), 4, seed=0)
    monkeypatch.setattr(GoogLeNet_Weights, "get_state_dict", lambda *_args, **_options: pytest.fail("fetched"))
    alike = build_model(without_outside(config, "x").model, (3, 64, 64), 4, seed=0)
    alike.load_state_dict(fetched.state_dict())
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(alike.eval()(images), fetched.eval()(images))


@pytest.mark.parametrize("width", [3000, 4096])
def test_a_network_far_larger_than_its_weights_is_not_built(width):
    with pytest.raises((ModelError, ConfigError), match="takes more than"), SizeLimit(10**8):
        build_model(load_config({"model": {"name": "resnet18", "width": width}}).model, (1, 28, 28), 10, seed=0)


def test_a_network_of_the_size_of_its_weights_is_built():
    with SizeLimit(10**7) as limit:
        model = build_model(load_config({"model": {"name": "resnet10", "width": 4}}).model, (1, 28, 28), 10, seed=0)
    assert sum(weight.nbytes for weight in model.parameters()) <= limit.bytes <= 10**7
