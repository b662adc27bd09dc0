"""Stages may pass through the network's own final normalisation before they are pooled."""

import pytest
import timm
import torch
from module_state import state_of
from torch import nn

import lwexplain as lw
from lwexplain.capture.extract import extract
from lwexplain.errors import CaptureError


class Outputs:
    """Keeps what it is given, and what attributions would pool."""

    name = "outputs"

    def __init__(self):
        self.features, self.pooled = {}, {}

    def measure(self, stage):
        self.features[stage.name] = torch.from_numpy(stage.features["val"].copy())
        self.pooled[stage.name] = stage.pool(stage.model_to_stage(stage.images)).detach()
        return {"width": float(stage.features["val"].shape[1])}


@pytest.fixture
def vit():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=24, num_heads=2)
    nn.init.normal_(model.norm.weight, 1, 0.3)
    return model.reset_classifier(3) or model


@pytest.fixture
def batch():
    return torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3


def test_features_are_those_of_the_norm_by_hand_and_attributions_pool_alike(vit, batch):
    before, probe = state_of(vit), Outputs()
    loaders = {"train": [batch], "val": [batch]}
    table = lw.analyze_model(vit, loaders, ["blocks.0", "blocks.2"], [probe], final_norm=True, quiet=True)
    assert state_of(vit) == before
    found = {}
    for name in probe.features:
        vit.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
    vit.eval()
    with torch.no_grad():
        vit(batch[0])
        for name, features in probe.features.items():
            torch.testing.assert_close(features, vit.norm(found[name])[:, 0], rtol=1e-4, atol=1e-5)
            assert probe.pooled[name].shape == features.shape
    order = batch[1].argsort(stable=True)  # sample images are sorted by class
    torch.testing.assert_close(probe.pooled["blocks.2"], probe.features["blocks.2"][order], rtol=1e-4, atol=1e-5)
    assert any("final normalisation, norm (LayerNorm)" in note for note in table.attrs["notes"])


def test_without_it_nothing_is_normalised(vit, batch):
    plain = extract(vit, [batch], ["blocks.0"]).features["blocks.0"]
    normed = extract(vit, [batch], ["blocks.0"], final_norm=True).features["blocks.0"]
    assert abs(plain - normed).max() > 0.1


def test_a_network_without_a_final_norm_is_refused(batch):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 3))
    with pytest.raises(CaptureError, match="no normalisation between its last stage and its output"):
        extract(model, [batch], ["2"], final_norm=True)


def test_a_stage_of_another_width_is_refused_with_its_name(batch):
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=12, depths=(1, 1), num_heads=(1, 1)
    )
    with pytest.raises(CaptureError, match=r"does not take the output .* of stage 'layers.0'"):
        extract(model, [batch], ["layers.0", "layers.1"], final_norm=True)


def test_an_adopted_run_keeps_to_it(vit, batch, tmp_path):
    loaders = {split: [batch] for split in ("train", "val", "test")}
    run = lw.adopt(vit, loaders, ["blocks.0", "blocks.2"], out=tmp_path / "vit", final_norm=True)
    probe = Outputs()
    lw.analyze(run, [probe], quiet=True)
    expected = extract(vit, [batch], ["blocks.0", "blocks.2"], final_norm=True).features
    for name, features in probe.features.items():
        torch.testing.assert_close(features, torch.from_numpy(expected[name]), rtol=1e-4, atol=1e-5)
    with pytest.raises(lw.LwexplainError, match="final_norm=True"):
        lw.adopt(vit, loaders, ["blocks.0", "blocks.2"], out=tmp_path / "vit")
    exported = lw.export(run, tmp_path / "short.pt2", depth=1)
    assert max(exported.parity.values()) < 1e-3
