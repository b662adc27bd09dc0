"""Networks of timm and torchvision train by every strategy from a configuration, also from a file of weights."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

import lwexplain as lw
from lwexplain.config import load_config
from lwexplain.errors import ModelError
from lwexplain.models.build import build_model
from lwexplain.stored_config import without_outside
from lwexplain.training.trained import open_trained

TINY_VIT = {"arch": "vit_tiny_patch16_224", "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
TINY_SWIN = {
    "arch": "swin_tiny_patch4_window7_224",
    "patch_size": 2,
    "window_size": 4,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
}
NETWORKS = {
    "timm ViT": TINY_VIT,
    "timm Swin": TINY_SWIN,
    "timm ConvNeXt": {"arch": "convnext_atto", "depths": [1, 1, 1, 1], "dims": [4, 8, 8, 8]},
    "timm MobileNet": {"arch": "mobilenetv3_small_050"},
    "timm EfficientNet": {"arch": "efficientnet_lite0"},
    "timm RegNet": {"arch": "regnetx_002"},
    "torchvision ViT": {"arch": "vit_b_16"},
    "torchvision Swin": {"arch": "swin_t"},
    "torchvision ConvNeXt": {"arch": "convnext_tiny"},
    "torchvision MobileNet": {"arch": "mobilenet_v3_small", "width_mult": 0.25},
    "torchvision EfficientNet": {"arch": "efficientnet_b0"},
    "torchvision RegNet": {"arch": "regnet_y_400mf"},
}
BY_DEFAULT = {
    ("timm ViT", "bp"),
    ("timm ViT", "greedy"),
    ("timm ViT", "decoupled"),
    ("torchvision MobileNet", "greedy"),
}


def config_of(network, **training):
    library, _ = network.split()
    small = library == "timm" and NETWORKS[network] in (TINY_VIT, TINY_SWIN)
    return {
        "data": {
            "name": "digits",
            "channels": 3,
            "train_size": 40,
            "batch_size": 16,
            "image_size": 16 if small else 32,
        },
        "model": {"name": library, "stages": 2, "options": NETWORKS[network]},
        "training": {"epochs": 1, "optimizer": {"lr": 0.01}, **training},
    }


@pytest.mark.parametrize(
    ("network", "strategy"),
    [
        pytest.param(network, strategy, marks=[] if (network, strategy) in BY_DEFAULT else [pytest.mark.survey])
        for network in NETWORKS
        for strategy in ("bp", "greedy", "decoupled")
    ],
)
def test_a_network_trains_by_every_strategy(network, strategy, tmp_path):
    config = load_config(config_of(network, strategy=strategy))
    new = build_model(config.model, (3, *[config.data.image_size] * 2), 10, config.seed)
    run = lw.train(config, run_dir=tmp_path / "run", quiet=True)
    assert run.status == "trained"
    trained = open_trained(run)
    assert trained.model.head_depths == ([2] if strategy == "bp" else [1, 2])
    before, after = dict(new.body.named_parameters()), dict(trained.model.body.named_parameters())
    changed = {int(name.split(".")[0]) for name in before if not torch.equal(before[name], after[name])}
    assert changed == {0, 1}
    assert all(torch.isfinite(value).all() for value in after.values())


@pytest.mark.parametrize("strategy", ["bp", pytest.param("greedy", marks=pytest.mark.survey)])
def test_the_exported_head_is_as_accurate_as_the_linear_probe(strategy, tmp_path):
    """The probe is fitted on the class token; so the head that is made of it must read the class token."""
    run = lw.train(config_of("timm ViT", strategy=strategy), run_dir=tmp_path / "run", quiet=True)
    table = lw.analyze(run, ["linear"], max_samples=None, quiet=True)
    rows = table[(table["metric"] == "linear_probe_accuracy") & (table["split"] == "test") & table["class"].isna()]
    assert rows["note"].str.contains("class token, as the network's head reads it").all()
    exported = lw.export(run, tmp_path / "short.pt2", depth=1, head="fresh")
    assert exported.short.test_accuracy.value == pytest.approx(rows["value"].iloc[0])
    assert max(exported.parity.values()) <= 1e-5


def save_pretrained(path, classes):
    torch.manual_seed(5)
    options = {key: value for key, value in TINY_VIT.items() if key != "arch"}
    model = timm.create_model(TINY_VIT["arch"], img_size=16, num_classes=classes, **options)
    torch.save({"state_dict": model.state_dict()}, path)
    return model


@pytest.mark.parametrize("classes", [10, 7])
def test_weights_come_from_a_file_and_another_classifier_is_replaced(tmp_path, classes):
    own = save_pretrained(tmp_path / "weights.pth", classes)
    options = {**TINY_VIT, "weights": str(tmp_path / "weights.pth")}
    config = load_config({"model": {"name": "timm", "options": options}})
    model = build_model(config.model, (3, 16, 16), 10, seed=0)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        features = own.eval().blocks(own.norm_pre(own._pos_embed(own.patch_embed(images))))
        torch.testing.assert_close(model.eval().run_stages(images, 0, 2), features)
        assert model(images).shape == (2, 10)
        assert torch.equal(model(images), own(images)) == (classes == 10)
    assert "weights" not in without_outside(config, "x").model.options


def test_torchvision_reads_a_file_where_its_name_says_so(tmp_path):
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(5)
    own = mobilenet_v3_small(width_mult=0.25, num_classes=4)
    torch.save(own.state_dict(), tmp_path / "weights.pt")
    options = {**NETWORKS["torchvision MobileNet"], "weights": str(tmp_path / "weights.pt")}
    config = load_config({"model": {"name": "torchvision", "options": options}})
    model = build_model(config.model, (3, 32, 32), 10, seed=0)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        rows = model.eval().run_stages(images, 0, model.depth)
        torch.testing.assert_close(rows, own.eval().features(images))
    assert without_outside(config, "x").model.options == NETWORKS["torchvision MobileNet"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "missing.pth"}, "there is no file of weights missing.pth"),
        ({"weights": "DEFAULT"}, r"model.options.weights is 'DEFAULT'; give a file that ends in .safetensors"),
        ({"weights": "x.pth", "pretrained": True}, "are both set; choose one"),
    ],
)
def test_weights_that_are_not_there_are_named(options, message):
    config = load_config({"model": {"name": "timm", "options": TINY_VIT | options}})
    with pytest.raises(ModelError, match=message):
        build_model(config.model, (3, 16, 16), 10, seed=0)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "weights.pth")
    config = load_config({"model": {"name": "timm", "options": TINY_VIT | {"weights": str(tmp_path / "weights.pth")}}})
    with pytest.raises(ModelError, match=r"model.options.weights: .*VisionTransformer"):
        build_model(config.model, (3, 16, 16), 10, seed=0)


def test_fine_tuning_leaves_the_first_stages_as_the_file_has_them(tmp_path):
    own = save_pretrained(tmp_path / "weights.pth", 7)
    options = {**TINY_VIT, "weights": str(tmp_path / "weights.pth")}
    config = config_of("timm ViT", train_from="blocks.1") | {"model": {"name": "timm", "options": options}}
    run = lw.train(config, run_dir=tmp_path / "run", quiet=True)
    (tmp_path / "weights.pth").unlink()  # the run is read without it
    trained = open_trained(run).model
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        tokens = own.eval().norm_pre(own._pos_embed(own.patch_embed(images)))
        first = own.blocks[0](tokens)
        torch.testing.assert_close(trained.run_stages(images, 0, 1), first)
        second = trained.run_stages(images, 0, 2)
    assert not np.allclose(second, own.blocks[1](first).detach(), atol=1e-3)
